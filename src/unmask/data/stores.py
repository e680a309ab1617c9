"""A split that stays where it lies: a store of its images, and their labels."""

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from unmask.data.decoding import Decode
from unmask.data.places import Folder, Store, Taken

__all__ = ["Files", "Folder", "Store", "Taken"]


@dataclass(frozen=True)
class Files:
    """One split that stays where it lies; images are read and decoded when asked for. Labels are -1 without classes."""

    store: Store
    labels_N: Int[Tensor, "N"]
    channels: int
    decode: Decode = "fast"

    def __len__(self) -> int:
        return len(self.store)
