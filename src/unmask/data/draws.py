"""Crops, moves and mirrors of a whole epoch of images in memory, drawn at once."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

AT_ONCE = 2**15  # samples


class Draws(NamedTuple):
    """Of all samples; None: nothing to be done."""

    epoch: int
    boxes_N5: Int[Tensor, "N 5"] | None
    shifts_N2: Int[Tensor, "N 2"] | None
    mirrored_N: Bool[Tensor, "N"] | None


def all_draws(
    epoch: int, samples: int, whole: tuple[int, int] | None, draw: Callable[[Tensor], tuple[Tensor, Tensor | None]]
) -> Draws:  # fmt: skip
    """For a batch of small images its draws alone would take longer than its pixels.

    draw: boxes and shifts of some samples. whole: the images' size where it is the wanted one already.
    """
    parts = [draw(ids) for ids in torch.arange(samples).split(AT_ONCE)]
    boxes = torch.cat([boxes.int() for boxes, _ in parts])
    found = [shifts.int() for _, shifts in parts if shifts is not None]
    shifts, mirrored = torch.cat(found) if found else None, None
    uncut = whole is not None and bool((boxes[:, :4] == torch.tensor([0, 0, *whole])).all())
    if (uncut or shifts is not None) and boxes[:, 4].any():  # else the product that resizes mirrors, too
        mirrored = boxes[:, 4].bool()
        boxes[:, 4] = 0
    return Draws(epoch, None if uncut else boxes, shifts, mirrored)


def side_by_side(which: Sequence[int]) -> dict[int, list[int]]:
    """The rows of a batch that are views of each image."""
    rows: dict[int, list[int]] = {}
    for row, image in enumerate(which):
        rows.setdefault(image, []).append(row)
    return rows
