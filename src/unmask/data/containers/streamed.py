"""LitData's chunks in object storage, fetched through LitData: kept whole where all fit on the disk, else by ranges."""

import errno
import io
import os
import shutil
from pathlib import Path
from typing import Any

from unmask.data.containers.contents import INDEX, Contents, cache_folder, read_index
from unmask.data.containers.roots import LocalRoot, whole

CACHED = 0.75  # of a disk that chunks may fill
# it would ask the package registry
os.environ.setdefault("LITDATA_DISABLE_VERSION_CHECK", "1")


def fetched_index(url: str) -> Contents:
    """The index beside index.json. Raises ValueError where it cannot be had."""
    content = io.BytesIO()
    try:
        # not to a file: that starts threads that a process forked later must not have
        downloader(url, "").download_fileobj(f"{url.rstrip('/')}/{INDEX}", content)
    except Exception as error:  # each service has its own
        raise ValueError(
            f"{url}/{INDEX} cannot be read ({_first_line(error)}); it lies there where"
            " src/prepare.py format=litdata wrote what was uploaded"
        ) from None
    content.seek(0)
    contents = read_index(content, "litdata")
    if contents is None:
        raise ValueError(
            f"{url}/{INDEX} is damaged or another version's; copy it again"
        )
    return contents


def downloader(url: str, folder: str) -> Any:
    from litdata.streaming.downloader import get_downloader

    return get_downloader(url, folder, [])


class Streamed:
    """Any image at any time, from any thread: LitData's downloaders ask no more than one for each process."""

    def __init__(self, url: str, contents: Contents) -> None:
        self.url, self.files = (
            url.rstrip("/"),
            tuple(shard.name for shard in contents.files),
        )
        self.names, self.sizes = contents.names, contents.sizes
        self.shards, self.offsets = contents.shards, contents.offsets
        self.cache = LocalRoot(cache_folder(f"{self.url} {contents.files}"))
        self.cache.root.mkdir(parents=True, exist_ok=True)
        kept = sum(path.stat().st_size for path in self.cache.root.rglob("*.bin"))
        room = CACHED * (shutil.disk_usage(self.cache.root).free + kept)
        self.keeps = sum(shard.size for shard in contents.files) <= room
        self._own: tuple[int, Any] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_own": None}

    def name(self, i: int) -> str:
        return f"{self.url}/{self.files[self.shards[i]]}: {self.names[i]}"

    def read(self, i: int) -> bytes:
        shard, offset, size = (
            self.files[self.shards[i]],
            int(self.offsets[i]),
            int(self.sizes[i]),
        )
        local = self.cache.root / shard
        try:
            if self.keeps and self._here(shard, local):
                return self.cache.read(shard, offset, size)
            found = self._downloader().download_bytes(
                f"{self.url}/{shard}", offset, size, str(local)
            )
            return whole(bytes(found), size, self.name(i))
        except OSError:
            raise
        except Exception as error:
            raise OSError(errno.EIO, _first_line(error), self.name(i)) from error

    def _here(self, shard: str, local: Path) -> bool:
        """Not while another process fetches the chunk, which nobody waits for."""
        if not local.exists():
            local.parent.mkdir(parents=True, exist_ok=True)
            self._downloader().download_file(f"{self.url}/{shard}", str(local))
        return local.exists()

    def _downloader(self) -> Any:
        if self._own is None or self._own[0] != os.getpid():
            self._own = (os.getpid(), downloader(self.url, str(self.cache.root)))
        return self._own[1]


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
