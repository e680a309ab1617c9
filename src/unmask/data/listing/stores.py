"""Stores of encoded images: each hands out images by index, in any thread or process.

Imports no torch.
"""

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG, filemode
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8

from unmask.data.listing.names import Names


@runtime_checkable
class Store(Protocol):
    """Hand out encoded images by index; what every container implements."""

    def __len__(self) -> int: ...

    def name(self, i: int) -> str:
        """Return what messages call the image: a path, or a shard and a name in it."""
        ...

    def read(self, i: int) -> bytes | UInt8[np.ndarray, "H W C"]:
        """Return the bytes of a file, or pixels where the store keeps raw pixels.

        Raises OSError where the image cannot be read.
        """
        ...


@dataclass(frozen=True)
class FolderStore:
    """Read files below a root folder."""

    root: Path
    names: Names

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        return f"{self.root}/{self.names[i]}"

    def read(self, i: int) -> bytes:
        # O_NONBLOCK: opening a named pipe would wait for a writer, perhaps for ever
        file = os.open(self.name(i), os.O_RDONLY | os.O_NONBLOCK)
        try:
            status = os.fstat(file)
            if not S_ISREG(status.st_mode):
                mode = filemode(status.st_mode)
                raise OSError(errno.EINVAL, f"it is not a file ({mode})")
            return _read_all(file, status.st_size)
        finally:
            os.close(file)


def _read_all(file: int, size: int) -> bytes:
    content = os.read(file, size + 1)
    # One call returns 2 GB at most, and less on some file systems.
    while len(content) < size:
        more = os.read(file, size - len(content))
        if not more:
            break
        content += more
    return content


@dataclass(frozen=True)
class Subset:
    """Hand out some images of a store, in the order of the indices: one split of it."""

    store: Store
    indices: Int[np.ndarray, "M"]

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, i: int) -> str:
        return self.store.name(int(self.indices[i]))

    def read(self, i: int) -> bytes | UInt8[np.ndarray, "H W C"]:
        return self.store.read(int(self.indices[i]))
