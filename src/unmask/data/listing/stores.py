"""Where encoded images lie: each store hands out one by its number, from any thread or process. Imports no torch."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8

from unmask.data.listing.names import Names


@runtime_checkable
class Store(Protocol):
    def __len__(self) -> int: ...

    def name(self, i: int) -> str:
        """As messages name it: a path, or a shard and a name in it."""
        ...

    def read(self, i: int) -> bytes | UInt8[np.ndarray, "H W C"]:
        """The bytes of a file, or the pixels of one that is kept as such. Raises OSError where it cannot be read."""
        ...


@dataclass(frozen=True)
class Folder:
    """Files below a root."""

    root: Path
    names: Names

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        return f"{self.root}/{self.names[i]}"

    def read(self, i: int) -> bytes:
        # not to wait for whoever would write into a pipe
        file = os.open(self.name(i), os.O_RDONLY | os.O_NONBLOCK)
        try:
            status = os.fstat(file)
            if not S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "it is no file")
            content = os.read(file, status.st_size + 1)
            while len(content) < status.st_size and (
                more := os.read(file, status.st_size - len(content))
            ):
                # 2 GB are read at once at most, and by some file systems less
                content += more
            return content
        finally:
            os.close(file)


@dataclass(frozen=True)
class Taken:
    """Some of a store's images, in that order: a split of it."""

    store: Store
    places: Int[np.ndarray, "M"]

    def __len__(self) -> int:
        return len(self.places)

    def name(self, i: int) -> str:
        return self.store.name(int(self.places[i]))

    def read(self, i: int) -> bytes | UInt8[np.ndarray, "H W C"]:
        return self.store.read(int(self.places[i]))
