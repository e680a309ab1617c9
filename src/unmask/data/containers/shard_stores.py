"""Stores of images in shards: any image at any time, never what precedes it."""

import os
import threading
from typing import Any

import numpy as np
from jaxtyping import UInt8

from unmask.data.containers.contents import Contents
from unmask.data.containers.parquet import RowGroupCache
from unmask.data.containers.roots import LocalRoot, Root
from unmask.data.listing.names import name_at


class ShardStore:
    """Read images of tars, Parquet files or LitData's local chunks.

    Any number of threads and processes may read at once.
    """

    def __init__(self, root: Root, contents: Contents) -> None:
        self.root = root
        self.shards = tuple(shard.name for shard in contents.shards)
        self.names = contents.names
        self.sizes = contents.sizes
        self.shard_ids = contents.shard_ids
        self.offsets = contents.offsets
        self._row_groups: tuple[int, RowGroupCache, Any] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_row_groups": None}

    def name(self, i: int) -> str:
        return f"{self.root}/{self.shards[self.shard_ids[i]]}: {name_at(self.names, i)}"

    def read(self, i: int) -> bytes:
        shard = self.shards[self.shard_ids[i]]
        offset = int(self.offsets[i])
        if offset >= 0:
            return self.root.read(shard, offset, int(self.sizes[i]))
        # below zero: a row of a compressed Parquet file
        cache, lock = self._row_group_cache()
        with lock:
            return cache.read(self.root, shard, offset)

    def _row_group_cache(self) -> tuple[RowGroupCache, Any]:
        """Return the cache and lock of this process.

        A lock that a thread held while the process was forked stays held in the child.
        """
        if self._row_groups is None or self._row_groups[0] != os.getpid():
            self._row_groups = (os.getpid(), RowGroupCache(), threading.Lock())
        return self._row_groups[1:]


class RawPixelStore:
    """Hand out raw pixels as arrays of mapped memory, without a copy."""

    def __init__(self, root: LocalRoot, contents: Contents) -> None:
        assert contents.shapes is not None
        self.root = root
        self.shards = tuple(shard.name for shard in contents.shards)
        self.names = contents.names
        self.shard_ids = contents.shard_ids
        self.offsets = contents.offsets
        self.shapes = contents.shapes
        self._maps: dict[int, UInt8[np.ndarray, bytes]] = {}

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        # a map would be pickled as all of its bytes
        return self.__dict__ | {"_maps": {}}

    def name(self, i: int) -> str:
        return f"{self.root}/{self.shards[self.shard_ids[i]]}: {name_at(self.names, i)}"

    def read(self, i: int) -> UInt8[np.ndarray, "H W C"]:
        shard_id = int(self.shard_ids[i])
        offset = int(self.offsets[i])
        pixels = self._maps.get(shard_id)
        if pixels is None:
            path = self.root.folder / self.shards[shard_id]
            # Mode c is copy-on-write: torch asks for writable memory, and pages that
            # nobody writes to stay shared between processes.
            pixels = np.asarray(np.memmap(path, np.uint8, mode="c"))
            self._maps[shard_id] = pixels
        height, width, channels = self.shapes[i].tolist()
        flat = pixels[offset : offset + height * width * channels]
        return flat.reshape(height, width, channels)
