"""Where encoded images lie: each store hands out the bytes of one by its number, from any thread or process."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor

from unmask.data.samples import Names


@runtime_checkable
class Store(Protocol):
    def __len__(self) -> int: ...

    def name(self, i: int) -> str:
        """As messages name it: a path, or a shard and a name in it."""
        ...

    def read(self, i: int) -> bytes:
        """Raises OSError where it cannot be read."""
        ...


@dataclass(frozen=True)
class Folder:
    """Files below a root."""

    root: Path
    names: Names

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        return str(self.root / self.names[i])

    def read(self, i: int) -> bytes:
        # not to wait for whoever would write into a pipe
        with os.fdopen(os.open(self.root / self.names[i], os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "it is no file")
            return file.read()


@dataclass(frozen=True)
class Files:
    """One split that stays where it lies; images are read and decoded when asked for. Labels are -1 without classes."""

    store: Store
    labels_N: Int[Tensor, "N"]
    channels: int
    decode: str = "auto"  # "nvjpeg": on the training device

    def __len__(self) -> int:
        return len(self.store)
