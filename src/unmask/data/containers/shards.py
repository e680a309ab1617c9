"""Images out of shards, any of them at any time: what lies before one is never read."""

import os
import threading
from typing import Any

import numpy as np
from jaxtyping import UInt8

from unmask.data.containers.contents import Contents
from unmask.data.containers.parquet import RowGroups
from unmask.data.containers.roots import LocalRoot, Root


class Shards:
    """A store of the images of tar, Parquet or LitData's local shards, in the order of `contents`."""

    def __init__(self, root: Root, contents: Contents) -> None:
        self.root, self.files = root, tuple(shard.name for shard in contents.files)
        self.names, self.sizes = contents.names, contents.sizes
        self.shards, self.offsets = contents.shards, contents.offsets
        self._own: tuple[int, RowGroups, Any] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_own": None}

    def name(self, i: int) -> str:
        return f"{self.root}/{self.files[self.shards[i]]}: {self.names[i]}"

    def read(self, i: int) -> bytes:
        shard, offset = self.files[self.shards[i]], int(self.offsets[i])
        if offset >= 0:
            return self.root.read(shard, offset, int(self.sizes[i]))
        groups, lock = self._groups()
        with lock:
            return groups.read(self.root, shard, offset)

    def _groups(self) -> tuple[RowGroups, Any]:
        """This process's own: a lock that was held when a process was forked stays held in it."""
        if self._own is None or self._own[0] != os.getpid():
            self._own = (os.getpid(), RowGroups(), threading.Lock())
        return self._own[1:]


class RawPixels:
    """A store of pixels that lie in files as they are: arrays of the mapped memory, nothing is copied."""

    def __init__(self, root: LocalRoot, contents: Contents) -> None:
        assert contents.shapes is not None
        self.root, self.files = root, tuple(shard.name for shard in contents.files)
        self.names, self.shards, self.offsets = (
            contents.names,
            contents.shards,
            contents.offsets,
        )
        self.shapes = contents.shapes
        self._maps: dict[int, UInt8[np.ndarray, bytes]] = {}

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}

    def name(self, i: int) -> str:
        return f"{self.root}/{self.files[self.shards[i]]}: {self.names[i]}"

    def read(self, i: int) -> UInt8[np.ndarray, "H W C"]:
        shard, offset = int(self.shards[i]), int(self.offsets[i])
        pixels = self._maps.get(shard)
        if pixels is None:
            # c: private and writable, which torch asks for; a page that nobody writes
            # to is shared
            pixels = self._maps[shard] = np.asarray(
                np.memmap(self.root.root / self.files[shard], np.uint8, mode="c")
            )
        height, width, channels = self.shapes[i].tolist()
        return pixels[offset : offset + height * width * channels].reshape(
            height, width, channels
        )
