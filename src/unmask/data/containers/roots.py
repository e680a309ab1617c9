"""Roots that hold shards: a local folder, or object storage through fsspec."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from unmask.data.listing.conventions import is_hidden

# Files that a root keeps open; the limit of a process is often 1,024.
MAX_DESCRIPTORS = 256

# Keys by which storage services tell that an object has changed.
CHANGE_KEYS = ("ETag", "etag", "mtime", "created")

# Bytes that are read ahead while headers are scanned.
READ_AHEAD = 4096

# Name, number, "of" the count, a hash or nothing, suffix: x-00003-of-00294-1a2b.parquet
NUMBERED_SHARD = re.compile(r"(.*?)(\d+)(-of-\d+)?((?:-[0-9a-f]+)?\.\w+)")


class Shard(NamedTuple):
    """Describe a shard; its name is relative to the root.

    changed: the time of modification in nanoseconds, or object storage's own mark.
    """

    name: str
    size: int
    changed: str


class LocalRoot:
    """Read shards of a local folder by pread, on descriptors that stay open.

    Threads and forked processes may share the descriptors: pread moves no position.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._descriptors: dict[str, int] = {}

    def __str__(self) -> str:
        return str(self.folder)

    def __getstate__(self) -> dict[str, Any]:
        # descriptors mean nothing in a process that was spawned
        return {"folder": self.folder, "_descriptors": {}}

    def list_shards(self, suffix: str) -> list[Shard]:
        """Return all files that end so, by name; hidden ones are left out."""
        shards = []
        for path in self.folder.rglob(f"*{suffix}"):
            name = str(path.relative_to(self.folder))
            if path.is_file() and not is_hidden(name):
                status = path.stat()
                shards.append(Shard(name, status.st_size, str(status.st_mtime_ns)))
        return sorted(shards)

    def open(self, name: str) -> BinaryIO:
        """Open a shard to scan it."""
        return (self.folder / name).open("rb")

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Return `size` bytes of a shard. Raises OSError where it ends earlier."""
        descriptor = self._descriptor(name)
        if descriptor is not None:
            content = os.pread(descriptor, size, offset)
        else:
            with self.open(name) as file:
                content = os.pread(file.fileno(), size, offset)
        return require_length(content, size, str(self.folder / name))

    def _descriptor(self, name: str) -> int | None:
        """Return an open descriptor, or None where no more may stay open."""
        descriptor = self._descriptors.get(name)
        if descriptor is None and len(self._descriptors) < MAX_DESCRIPTORS:
            opened = os.open(self.folder / name, os.O_RDONLY)
            # atomic: of two threads one wins, and the other closes what it opened
            descriptor = self._descriptors.setdefault(name, opened)
            if descriptor != opened:
                os.close(opened)
        return descriptor

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)


class RemoteRoot:
    """Read shards below a URL by ranged requests, from any service fsspec knows."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        # (process id, file system, path): event loops do not survive a fork
        self._connection: tuple[int, Any, str] | None = None

    def __str__(self) -> str:
        return self.url

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "_connection": None}

    def _connect(self) -> tuple[Any, str]:
        """Return this process's file system, and the root's path in it."""
        if self._connection is None or self._connection[0] != os.getpid():
            import fsspec

            try:
                system, path = fsspec.core.url_to_fs(self.url, skip_instance_cache=True)
            except (ImportError, ValueError) as error:
                raise ValueError(
                    f"data.root={self.url} cannot be reached: {error}"
                ) from None
            self._connection = (os.getpid(), system, path.rstrip("/"))
        return self._connection[1:]

    def list_shards(self, suffix: str) -> list[Shard]:
        """Return all objects that end so, by name; hidden ones are left out."""
        system, root = self._connect()
        try:
            found = system.find(root, detail=True)
        # each service raises errors of its own
        except Exception as error:
            raise ValueError(
                f"data.root={self.url} cannot be listed ({describe_error(error)})"
            ) from None
        return sorted(
            Shard(path[len(root) + 1 :], facts["size"], _change_mark(facts))
            for path, facts in found.items()
            if path.endswith(suffix) and not is_hidden(path[len(root) + 1 :])
        )

    def open(self, name: str) -> Any:
        """Open a shard to scan it."""
        system, root = self._connect()
        return system.open(f"{root}/{name}", "rb", block_size=READ_AHEAD)

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Return `size` bytes of a shard. Raises OSError where they cannot be had."""
        system, root = self._connect()
        url = f"{self.url}/{name}"
        with os_errors(url):
            content = system.cat_file(f"{root}/{name}", start=offset, end=offset + size)
            return require_length(content, size, url)


def _change_mark(facts: dict[str, Any]) -> str:
    return next((str(facts[key]) for key in CHANGE_KEYS if facts.get(key)), "")


Root = LocalRoot | RemoteRoot


@contextmanager
def os_errors(url: str) -> Iterator[None]:
    """Raise a service's errors as OSError, which loaders take for a bad image."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(errno.EIO, describe_error(error), url) from error


def describe_error(error: Exception) -> str:
    """Return the kind of an error and its first line."""
    first_line = "".join(str(error).strip().splitlines()[:1])
    return f"{type(error).__name__}: {first_line}"


def require_length(content: bytes, size: int, name: str) -> bytes:
    """Return the content; raise OSError where it is shorter than `size`."""
    if len(content) < size:
        missing = size - len(content)
        raise OSError(errno.EIO, f"it ends {missing} bytes too early", name)
    return content


def open_root(location: str) -> Root:
    """Return the root at a URL or local path.

    Raises ValueError where a local folder is missing.
    """
    if "://" in location:
        return RemoteRoot(location)
    folder = Path(location).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"data.root={location} is not a folder; give an existing folder of shards,"
            " or a URL"
        )
    return LocalRoot(folder)


class _Series(NamedTuple):
    """Identify shards that are numbered together; total: as in -of-00294, or empty."""

    before: str
    total: str
    after: str


def missing_shards(shards: list[Shard]) -> Iterator[str]:
    """Yield the names of shards that the numbers of the others show to be missing.

    Names like train-00000-of-00294 tell how many there are; of names like x-0000.tar
    those up to the largest number are expected.
    """
    numbers: dict[_Series, set[int]] = {}
    widths: dict[_Series, int] = {}
    for shard in shards:
        match = NUMBERED_SHARD.fullmatch(shard.name)
        if match is None:
            continue
        before, number, total, after = match.groups(default="")
        if total:
            # a hash may follow, a different one for each shard: ignore it
            after = "." + after.rpartition(".")[2]
        series = _Series(before, total, after)
        numbers.setdefault(series, set()).add(int(number))
        widths[series] = len(number)

    # Numbers may begin at 1, but then they do in every series.
    open_ended = [min(present) for s, present in numbers.items() if not s.total]
    first = min(open_ended, default=0)
    for series, present in numbers.items():
        if series.total:
            expected = range(int(series.total.removeprefix("-of-")))
        else:
            expected = range(first, max(present) + 1)
        for k in expected:
            if k not in present:
                digits = f"{k:0{widths[series]}d}"
                yield f"{series.before}{digits}{series.total}{series.after}"
