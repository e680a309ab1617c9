"""LitData's chunks in object storage, fetched through LitData's downloaders.

Chunks are kept as a whole where all fit on the disk; otherwise images are fetched one
by one.
"""

import io
import os
import shutil
from functools import cache
from typing import Any

from unmask.data.containers.contents import Contents
from unmask.data.containers.index import INDEX_FILE, cache_folder, read_index
from unmask.data.containers.roots import (
    LocalRoot,
    Shard,
    describe_error,
    os_errors,
    require_length,
)

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
        make_downloader(url, "", os.getpid()).download_fileobj(index_url, content)
    # each service raises errors of its own
    except Exception as error:
        raise ValueError(
            f"{url}/{INDEX_FILE} cannot be read ({describe_error(error)}); upload all"
            " that src/prepare.py format=litdata wrote"
        ) from None
    content.seek(0)
    contents = read_index(content, "litdata")
    if contents is None:
        raise ValueError(
            f"{url}/{INDEX_FILE} is damaged or of another version; copy it again"
        )
    return contents


# Threads may share a downloader, processes may not.
@cache
def make_downloader(url: str, folder: str, process_id: int) -> Any:
    """Return LitData's downloader for the scheme of this URL."""
    from litdata.streaming.downloader import get_downloader

    return get_downloader(url, folder, [])


class StreamedRoot:
    """Read parts of remote chunks, of any chunk at any time and from any thread."""

    def __init__(self, url: str, chunks: tuple[Shard, ...]) -> None:
        self.url = url.rstrip("/")
        self.cache = LocalRoot(cache_folder(f"{self.url} {chunks}"))
        self.cache.folder.mkdir(parents=True, exist_ok=True)
        # chunks of an earlier run take space that these may have
        cached = sum(path.stat().st_size for path in self.cache.folder.rglob("*.bin"))
        free = shutil.disk_usage(self.cache.folder).free
        total = sum(chunk.size for chunk in chunks)
        self.keeps_chunks = total <= MAX_DISK_SHARE * (free + cached)

    def __str__(self) -> str:
        return self.url

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Return `size` bytes of a chunk. Raises OSError where they cannot be had."""
        url = f"{self.url}/{name}"
        path = self.cache.folder / name
        downloader = make_downloader(self.url, str(self.cache.folder), os.getpid())
        with os_errors(url):
            if self.keeps_chunks and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                downloader.download_file(url, str(path))
            # it may still be missing: while another process fetches it, nobody waits
            if self.keeps_chunks and path.exists():
                return self.cache.read(name, offset, size)
            fetched = downloader.download_bytes(url, offset, size, str(path))
            return require_length(bytes(fetched), size, url)
