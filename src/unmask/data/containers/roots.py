"""Where shards lie: a local folder, read by pread on descriptors, or object storage, read by ranges through fsspec."""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

OPEN = 256  # descriptors that a store keeps; the limit of a process is often 1,024
CHANGED = ("ETag", "etag", "mtime", "created")  # what services tell of an object
PEEKED = 4096  # bytes read ahead while headers are scanned


class Shard(NamedTuple):
    """Relative to the root; changed: nanoseconds, or what object storage says instead."""

    name: str
    size: int
    changed: str


class LocalRoot:
    """Descriptors may be shared by threads and with processes that are forked: pread has no position."""

    def __init__(self, root: Path) -> None:
        self.root, self.opened = root, dict[str, int]()

    def __str__(self) -> str:
        return str(self.root)

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "opened": {}}

    def shards(self, suffix: str) -> list[Shard]:
        """All files below that end so, by name; hidden files and folders are none."""
        found = []
        for path in self.root.rglob(f"*{suffix}"):
            name = path.relative_to(self.root)
            if not any(part[0] == "." for part in name.parts) and path.is_file():
                status = path.stat()
                found.append(Shard(str(name), status.st_size, str(status.st_mtime_ns)))
        return sorted(found)

    def open(self, name: str) -> BinaryIO:
        return (self.root / name).open("rb")

    def read(self, name: str, offset: int, size: int) -> bytes:
        descriptor = self.opened.get(name)
        if descriptor is None and len(self.opened) < OPEN:
            fresh = os.open(self.root / name, os.O_RDONLY)
            descriptor = self.opened.setdefault(name, fresh)
            if descriptor != fresh:  # another thread was first
                os.close(fresh)
        if descriptor is not None:
            content = os.pread(descriptor, size, offset)
        else:
            with self.open(name) as file:
                content = os.pread(file.fileno(), size, offset)
        return whole(content, size, str(self.root / name))

    def __del__(self) -> None:
        for descriptor in self.opened.values():
            os.close(descriptor)


class RemoteRoot:
    """A URL that fsspec knows; a file system for each process, since event loops do not survive a fork."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.made: tuple[int, Any, str] | None = None

    def __str__(self) -> str:
        return self.url

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "made": None}

    @property
    def _system(self) -> tuple[Any, str]:
        if self.made is None or self.made[0] != os.getpid():
            import fsspec

            try:
                system, path = fsspec.core.url_to_fs(self.url, skip_instance_cache=True)
            except (ImportError, ValueError) as error:
                raise ValueError(
                    f"data.root={self.url} cannot be reached: {error}"
                ) from None
            self.made = (os.getpid(), system, path.rstrip("/"))
        return self.made[1:]

    def shards(self, suffix: str) -> list[Shard]:
        system, root = self._system
        try:
            found = system.find(root, detail=True)
        except Exception as error:  # each service has its own
            raise ValueError(
                f"data.root={self.url} cannot be listed ({type(error).__name__}:"
                f" {error})"
            ) from None
        told = {
            path: next((str(each[key]) for key in CHANGED if each.get(key)), "")
            for path, each in found.items()
        }
        return sorted(
            Shard(path[len(root) + 1 :], found[path]["size"], changed)
            for path, changed in told.items()
            if path.endswith(suffix)
        )

    def open(self, name: str) -> Any:
        system, root = self._system
        return system.open(f"{root}/{name}", "rb", block_size=PEEKED)

    def read(self, name: str, offset: int, size: int) -> bytes:
        system, root = self._system
        try:
            content = system.cat_file(f"{root}/{name}", start=offset, end=offset + size)
        except OSError:
            raise
        except Exception as error:
            raise OSError(
                errno.EIO, f"{type(error).__name__}: {error}", f"{self.url}/{name}"
            ) from error
        return whole(content, size, f"{self.url}/{name}")


Root = LocalRoot | RemoteRoot


def whole(content: bytes, size: int, name: str) -> bytes:
    if len(content) < size:
        raise OSError(errno.EIO, f"it ends {size - len(content)} bytes too early", name)
    return content


def root_of(place: str) -> Root:
    """Raises ValueError where a local folder is missing."""
    if "://" in place:
        return RemoteRoot(place)
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"data.root={place} is not a folder; give an existing folder of shards, or"
            " a URL"
        )
    return LocalRoot(folder)


def numbered_gaps(shards: list[Shard]) -> Iterator[str]:
    """Names of shards that others' numbers say should be there: train-00000-of-00294, or x-0000.tar up to the last."""
    groups: dict[tuple[str, str, str], set[int]] = {}
    widths: dict[tuple[str, str, str], int] = {}
    for shard in shards:
        if match := re.fullmatch(
            r"(.*?)(\d+)(-of-\d+)?((?:-[0-9a-f]+)?\.\w+)", shard.name
        ):
            key = (
                match[1],
                match[3] or "",
                match[4] if not match[3] else "." + match[4].rpartition(".")[2],
            )
            groups.setdefault(key, set()).add(int(match[2]))
            widths[key] = len(match[2])
    first = min(
        (min(numbers) for (_, of, _), numbers in groups.items() if not of), default=0
    )
    for (before, of, after), numbers in groups.items():
        expected = range(int(of[4:])) if of else range(first, max(numbers) + 1)
        for number in expected:
            if number not in numbers:
                yield f"{before}{number:0{widths[before, of, after]}d}{of}{after}"
