"""Where encoded images lie: each store hands out the bytes of one by its number, from any thread or process."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor

from unmask.data.decoding import Decode
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
        return (self.root / self.names[i]).read_bytes()


@dataclass(frozen=True)
class Files:
    """One split that stays where it lies; images are read and decoded when asked for. Labels are -1 without classes."""

    store: Store
    labels_N: Int[Tensor, "N"]
    channels: int
    decode: Decode = "fast"

    def __len__(self) -> int:
        return len(self.store)
