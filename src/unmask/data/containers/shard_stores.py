"""Stores of images in shards: any image at any time, never what precedes it."""

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

from unmask.data.containers.contents import Contents, coded_type
from unmask.data.containers.parquet import read_row
from unmask.data.containers.roots import LocalRoot, Root
from unmask.data.containers.streamed import StreamedRoot


class ShardStore:
    """Read images of tars, Parquet files or LitData's chunks.

    Any number of threads and processes may read at once.
    """

    def __init__(self, root: Root | StreamedRoot, contents: Contents) -> None:
        self.root = root
        # digests are for the catalogue: here they would be sent to each worker
        self.contents = replace(contents, digests=None)

    def __len__(self) -> int:
        return len(self.contents.names)

    def name(self, i: int) -> str:
        return f"{self.root}/{self.contents.place(i)}"

    def read(self, i: int) -> bytes | Shaped[np.ndarray, "H W C"]:
        content = self.read_bytes(i)
        if self.contents.shapes is None:
            return content
        # LitData's pixels; copied, since torch asks for writable memory
        flat = np.frombuffer(bytearray(content), _pixel_type(self.contents, i))
        return flat.reshape(self.contents.shapes[i])

    def read_bytes(self, i: int) -> bytes:
        shard = self.contents.shard_of(i)
        offset = int(self.contents.offsets[i])
        # below zero: a row of a compressed Parquet file
        if offset < 0:
            return read_row(self.root, shard, offset)
        return self.root.read(shard, offset, int(self.contents.sizes[i]))


def _pixel_type(contents: Contents, i: int) -> np.dtype:
    if contents.dtypes is None:
        return np.dtype(np.uint8)
    return coded_type(int(contents.dtypes[i]))


class RawPixelStore:
    """Hand out raw pixels as arrays of mapped memory, without a copy."""

    def __init__(self, root: LocalRoot, contents: Contents) -> None:
        self.root = root
        self.contents = replace(contents, digests=None)
        self._maps: dict[str, UInt8[np.ndarray, bytes]] = {}

    def __len__(self) -> int:
        return len(self.contents.names)

    def __getstate__(self) -> dict[str, Any]:
        # a map would be pickled as all of its bytes
        return self.__dict__ | {"_maps": {}}

    def name(self, i: int) -> str:
        return f"{self.root}/{self.contents.place(i)}"

    def read(self, i: int) -> Shaped[np.ndarray, "H W C"]:
        shard = self.contents.shard_of(i)
        offset = int(self.contents.offsets[i])
        if shard not in self._maps:
            # Mode c is copy-on-write: torch asks for writable memory, and pages that
            # nobody writes to stay shared between processes.
            mapped = np.memmap(self.root.folder / shard, np.uint8, mode="c")
            self._maps[shard] = np.asarray(mapped)
        assert self.contents.shapes is not None
        height, width, channels = self.contents.shapes[i].tolist()
        flat = self._maps[shard][offset : offset + int(self.contents.sizes[i])]
        return flat.view(_pixel_type(self.contents, i)).reshape(height, width, channels)
