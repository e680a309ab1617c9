"""Data sets held in memory as pixels: those that come as arrays, and small folders."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from unmask.config.datasets import find_dataset
from unmask.data.images.tensors import PixelTensor
from unmask.data.images.unreadable import BadImage

CPU = torch.device("cpu")
# images up to this size go to the device by default, if they take no more than a
# quarter of what is free there
MAX_AUTO_BYTES = 2**30


@dataclass(frozen=True)
class InMemory:
    """A split of images of one size, each with a label (-1: unlabelled).

    bad_images: for each sample that holds a substitute and its label, the images that
    could not be read. device: where batches are made.
    """

    images_NCHW: PixelTensor
    labels_N: Int[Tensor, "N"]
    bad_images: dict[int, tuple[BadImage, ...]] = field(default_factory=dict)
    device: torch.device = CPU

    def __len__(self) -> int:
        return len(self.images_NCHW)

    @cached_property
    def images_on_device(self) -> PixelTensor:
        """Copy the images to the device when the first batch is made."""
        return self.images_NCHW.to(self.device)


def place_on_device(
    train: InMemory, val: InMemory, wanted: bool | str | None, device: torch.device
) -> tuple[InMemory, InMemory]:
    """Let batches be made on the device, if that is wanted (data.in_memory)."""
    size = train.images_NCHW.nbytes + val.images_NCHW.nbytes
    if not should_move_to_device(size, wanted, device):
        return train, val
    return replace(train, device=device), replace(val, device=device)


def should_move_to_device(
    size: int, wanted: bool | str | None, device: torch.device
) -> bool:
    """Return whether images of `size` bytes should lie on the device.

    wanted: data.in_memory; "device" demands it, None decides by size. Raises ValueError
    if "device" is wanted and there is no room.
    """
    if wanted not in (None, "device"):
        return False
    if device.type != "cuda":
        return wanted == "device"
    free, _ = torch.cuda.mem_get_info(device)
    if wanted == "device" and size > free:
        raise ValueError(
            f"data.in_memory=device: the images take {size / 1e9:.1f} GB and {device}"
            f" has {free / 1e9:.1f} GB free; set data.in_memory=true"
        )
    return wanted == "device" or size <= min(MAX_AUTO_BYTES, free // 4)


def load_arrays(
    name: str, root: Path = Path("data"), download: bool = False
) -> tuple[InMemory, InMemory]:
    """Load (training, validation) of a data set that comes as arrays.

    Raises ValueError where it is missing.
    """
    arrays = find_dataset(name).arrays
    assert arrays, name
    try:
        splits = arrays.load(root, download)
    except ValueError as error:
        raise ValueError(f"data={name}: {error}") from error
    train, val = (
        InMemory(torch.from_numpy(images), torch.from_numpy(labels))
        for images, labels in splits
    )
    return train, val
