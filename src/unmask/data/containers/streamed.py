"""LitData's chunks in object storage, fetched through LitData's downloaders.

Chunks are kept as a whole where all fit on the disk; otherwise images are fetched one
by one.
"""

import errno
import io
import os
import shutil
from pathlib import Path
from typing import Any

from unmask.data.containers.contents import Contents
from unmask.data.containers.index import INDEX_FILE, cache_folder, read_index
from unmask.data.containers.roots import LocalRoot, require_length
from unmask.data.listing.names import name_at

# The share of the free disk that chunks may fill.
MAX_DISK_SHARE = 0.75

# LitData would ask the package registry for its newest version.
os.environ.setdefault("LITDATA_DISABLE_VERSION_CHECK", "1")


def fetch_index(url: str) -> Contents:
    """Fetch the index that lies beside index.json.

    Raises ValueError where it cannot be read.
    """
    content = io.BytesIO()
    try:
        # Into memory: to download a file starts threads, which a process that is
        # forked later must not have.
        index_url = f"{url.rstrip('/')}/{INDEX_FILE}"
        make_downloader(url, "").download_fileobj(index_url, content)
    # each service raises errors of its own
    except Exception as error:
        raise ValueError(
            f"{url}/{INDEX_FILE} cannot be read ({type(error).__name__}:"
            f" {_first_line(error)}); upload all that src/prepare.py format=litdata"
            " wrote"
        ) from None
    content.seek(0)
    contents = read_index(content, "litdata")
    if contents is None:
        raise ValueError(
            f"{url}/{INDEX_FILE} is damaged or of another version; copy it again"
        )
    return contents


def make_downloader(url: str, folder: str) -> Any:
    """Return LitData's downloader for the scheme of this URL."""
    from litdata.streaming.downloader import get_downloader

    return get_downloader(url, folder, [])


class StreamedStore:
    """Read images of remote chunks, any at any time and from any thread.

    LitData's downloaders may be shared by threads but not by processes.
    """

    def __init__(self, url: str, contents: Contents) -> None:
        self.url = url.rstrip("/")
        self.shards = tuple(shard.name for shard in contents.shards)
        self.names = contents.names
        self.sizes = contents.sizes
        self.shard_ids = contents.shard_ids
        self.offsets = contents.offsets
        self.cache = LocalRoot(cache_folder(f"{self.url} {contents.shards}"))
        self.cache.folder.mkdir(parents=True, exist_ok=True)
        self.keeps_chunks = self._fits_on_disk(contents)
        self._downloader: tuple[int, Any] | None = None

    def _fits_on_disk(self, contents: Contents) -> bool:
        # chunks of an earlier run take space that these may have
        cached = sum(path.stat().st_size for path in self.cache.folder.rglob("*.bin"))
        free = shutil.disk_usage(self.cache.folder).free
        total = sum(shard.size for shard in contents.shards)
        return total <= MAX_DISK_SHARE * (free + cached)

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_downloader": None}

    def name(self, i: int) -> str:
        return f"{self.url}/{self.shards[self.shard_ids[i]]}: {name_at(self.names, i)}"

    def read(self, i: int) -> bytes:
        shard = self.shards[self.shard_ids[i]]
        offset, size = int(self.offsets[i]), int(self.sizes[i])
        chunk = self.cache.folder / shard
        try:
            if self.keeps_chunks and self._fetch_chunk(shard, chunk):
                return self.cache.read(shard, offset, size)
            fetched = self._process_downloader().download_bytes(
                f"{self.url}/{shard}", offset, size, str(chunk)
            )
            return require_length(bytes(fetched), size, self.name(i))
        except OSError:
            raise
        # as OSError, which loaders take for a bad image
        except Exception as error:
            reason = f"{type(error).__name__}: {_first_line(error)}"
            raise OSError(errno.EIO, reason, self.name(i)) from error

    def _fetch_chunk(self, shard: str, chunk: Path) -> bool:
        """Fetch a chunk if it is not there; return whether it is there now.

        Returns False while another process is fetching it; this one does not wait.
        """
        if not chunk.exists():
            chunk.parent.mkdir(parents=True, exist_ok=True)
            url = f"{self.url}/{shard}"
            self._process_downloader().download_file(url, str(chunk))
        return chunk.exists()

    def _process_downloader(self) -> Any:
        if self._downloader is None or self._downloader[0] != os.getpid():
            downloader = make_downloader(self.url, str(self.cache.folder))
            self._downloader = (os.getpid(), downloader)
        return self._downloader[1]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else ""
