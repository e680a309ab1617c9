"""Data sets held in memory as uint8: those that come as arrays, and small folders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from unmask.config.datasets import DATASETS
from unmask.data.images.unreadable import BadImage
from unmask.data.loading.on_device import OnDevice, should_move_to_device

SAMPLES_PER_DRAW = 2**15  # bounds the memory of the random numbers


@dataclass(frozen=True)
class InMemory:
    """A split of images of one size, each with a label (-1: unlabelled).

    bad_images: for each sample that holds a substitute and its label, the images that
    could not be read. on_device: if batches are to take their images there.
    """

    images_NCHW: UInt8[Tensor, "N C H W"]
    labels_N: Int[Tensor, "N"]
    bad_images: dict[int, tuple[BadImage, ...]] = field(default_factory=dict)
    on_device: OnDevice | None = None

    def __len__(self) -> int:
        return len(self.images_NCHW)


def place_on_device(
    train: InMemory, val: InMemory, wanted: bool | str | None, device: torch.device
) -> tuple[InMemory, InMemory]:
    """Let batches take their images on the device, if that is wanted (data.in_memory).

    See `unmask.data.loading.on_device`.
    """
    size = train.images_NCHW.nbytes + val.images_NCHW.nbytes
    if not should_move_to_device(size, wanted, device):
        return train, val
    return (
        replace(train, on_device=OnDevice(train.images_NCHW)),
        replace(val, on_device=OnDevice(val.images_NCHW)),
    )


def load_arrays(
    name: str, root: Path = Path("data"), download: bool = False
) -> tuple[InMemory, InMemory]:
    """Load (training, validation) of a data set that comes as arrays.

    Raises ValueError where it is missing.
    """
    arrays = DATASETS[name].arrays
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


class EpochDraws(NamedTuple):
    """The random crops of all samples in one epoch; None: there is nothing to do."""

    epoch: int
    boxes_N5: Int[Tensor, "N 5"] | None
    shifts_N2: Int[Tensor, "N 2"] | None
    mirrored_N: Bool[Tensor, "N"] | None


def draw_epoch(
    epoch: int,
    samples: int,
    uncropped: tuple[int, int] | None,
    draw: Callable[[Tensor], tuple[Tensor, Tensor | None]],
) -> EpochDraws:
    """Draw for all samples at once.

    Drawing for a batch of small images alone would take longer than its pixels. draw:
    returns boxes and shifts of some samples. uncropped: the size of the images, if it
    is the wanted one, so that boxes of that size need no resizing.
    """
    parts = [draw(ids) for ids in torch.arange(samples).split(SAMPLES_PER_DRAW)]
    # 32 bits: they are held for a whole epoch
    boxes = torch.cat([boxes.int() for boxes, _ in parts])
    shift_parts = [shifts.int() for _, shifts in parts if shifts is not None]
    shifts = torch.cat(shift_parts) if shift_parts else None
    keeps_all = uncropped is not None and bool(
        (boxes[:, :4] == torch.tensor([0, 0, *uncropped])).all()
    )
    mirrored = None
    # where images are resized, the same matrix product also mirrors them
    if (keeps_all or shifts is not None) and boxes[:, 4].any():
        mirrored = boxes[:, 4].bool()
        boxes[:, 4] = 0
    return EpochDraws(epoch, None if keeps_all else boxes, shifts, mirrored)


def rows_by_image(images: Sequence[int]) -> dict[int, list[int]]:
    """Return the batch rows that show each image, given the image of each row."""
    rows: dict[int, list[int]] = {}
    for row, image in enumerate(images):
        rows.setdefault(image, []).append(row)
    return rows
