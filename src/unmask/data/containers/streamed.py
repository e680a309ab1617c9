"""LitData's chunks in object storage, through LitData: of each image its bytes alone are fetched."""

import errno
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

from unmask.data.containers.contents import INDEX, Contents, read_index

os.environ.setdefault("LITDATA_DISABLE_VERSION_CHECK", "1")  # it would ask the package registry


def fetched_index(url: str) -> Contents:
    """The index beside index.json. Raises ValueError where it cannot be had."""
    from litdata.streaming.downloader import get_downloader

    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / INDEX
        try:
            get_downloader(url, folder, []).download_file(f"{url.rstrip('/')}/{INDEX}", str(local))
        except Exception as error:  # each service has its own
            raise ValueError(
                f"{url}/{INDEX} cannot be read ({_first_line(error)}); it lies there where "
                f"src/prepare.py format=litdata wrote what was uploaded"
            ) from None
        contents = read_index(local, "litdata") if local.exists() else None
    if contents is None:
        raise ValueError(f"{url}/{INDEX} is missing, damaged or another version's; copy it again")
    return contents


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"


class Streamed:
    """LitData's reader keeps one open chunk: each thread of each process has readers of its own, one a folder."""

    def __init__(self, url: str, contents: Contents) -> None:
        self.url, self.names = url.rstrip("/"), contents.names
        folders = [shard.name.rpartition("/")[0] for shard in contents.files]
        self.folders = sorted(set(folders))
        self.owners = np.array([self.folders.index(folder) for folder in folders], dtype=np.int16)[contents.shards]
        # an image's number in its index.json, which lists chunks in our order
        order = np.lexsort((contents.offsets, contents.shards, self.owners))
        starts = np.searchsorted(self.owners[order], np.arange(len(self.folders)))
        self.positions = np.empty(len(order), dtype=np.int32)
        self.positions[order] = np.arange(len(order)) - starts[self.owners[order]]
        self._own = threading.local()

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_own"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._own = threading.local()

    def name(self, i: int) -> str:
        return f"{self.url}: {self.names[i]}"

    def read(self, i: int) -> bytes:
        try:
            return bytes(self._reader(self.folders[self.owners[i]])[int(self.positions[i])][0])
        except OSError:
            raise
        except Exception as error:
            raise OSError(errno.EIO, _first_line(error), self.name(i)) from error

    def _reader(self, folder: str) -> Any:
        if getattr(self._own, "process", None) != os.getpid():
            self._own.process, self._own.readers = os.getpid(), {}
        if folder not in self._own.readers:
            from litdata import StreamingDataset

            self._own.readers[folder] = StreamingDataset(f"{self.url}/{folder}" if folder else self.url)
        return self._own.readers[folder]
