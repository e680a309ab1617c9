"""Stores of encoded images: each hands out images by index, in any thread or process.

Imports no torch.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Shaped


@runtime_checkable
class Store(Protocol):
    """Hand out encoded images by index; what every container implements."""

    def __len__(self) -> int: ...

    def name(self, i: int) -> str:
        """Return what messages call the image: a path, or a shard and a name in it."""
        ...

    def read(self, i: int) -> bytes | Shaped[np.ndarray, "H W C"]:
        """Return the bytes of a file, or pixels where the store keeps raw pixels.

        Raises OSError where the image cannot be read.
        """
        ...


@dataclass(frozen=True)
class Subset:
    """Hand out some images of a store, in the order of the indices: one split of it."""

    store: Store
    indices: Int[np.ndarray, "M"]

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, i: int) -> str:
        return self.store.name(int(self.indices[i]))

    def read(self, i: int) -> bytes | Shaped[np.ndarray, "H W C"]:
        return self.store.read(int(self.indices[i]))
