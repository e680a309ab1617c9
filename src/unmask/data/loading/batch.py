"""Batches as the loader gives them, and what is still to be done to their images on the device."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unmask.data.augment.crops import crop_resize, moved
from unmask.data.images.nvjpeg import Packed, unpacked
from unmask.data.images.unreadable import Bad
from unmask.data.loading.on_device import OnDevice

FLOATS_AT_ONCE = 2**19  # two megabytes


class Batch(NamedTuple):
    """images: uint8 from the loader; normalised float once on the device. Labels are -1 where there are none.

    ids: of the samples; view k of image i is sample i + k * (images of the split), in [0, images) the image's own.
    """

    images_BCHW: Tensor
    labels_B: Int[Tensor, "B"]
    ids_B: Int[Tensor, "B"]
    epoch: int
    boxes_B5: Int[Tensor, "B 5"] | None  # crops still to be made, on the device
    # images still to be mirrored, on the device
    mirrored_B: Bool[Tensor, "B"] | None = None
    bad: tuple[Bad, ...] = ()
    # before that: how far images are still to be moved
    shifts_B2: Int[Tensor, "B 2"] | None = None
    # the device has all images already, and those of the batch are taken there
    resident: OnDevice | None = None
    # JPEGs still to be decoded there; images are the others
    packed: Packed | None = None


@dataclass(frozen=True)
class Format:
    """What the model sees: (height, width), the mean and std per channel of pixels in [0, 1], the evaluation crop."""

    shape: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    eval_crop: float = 1.0


def flipped(images_BCHW: Tensor, mirrored_B: Bool[Tensor, "B"]) -> Tensor:
    # a choice among rows: of bytes five times as fast as a choice at each pixel
    either = torch.cat([images_BCHW, images_BCHW.flip(3)])
    return either.index_select(
        0,
        torch.arange(len(images_BCHW), device=images_BCHW.device)
        + len(images_BCHW) * mirrored_B,
    )


def normalised(batch: Batch, form: Format) -> Batch:
    """Crop, move and mirror what is still to be, and bring pixels to zero mean and unit variance, on their device."""
    device, count = batch.images_BCHW.device, len(batch.ids_B)
    mean, std = (
        torch.tensor(v, device=device).view(1, -1, 1, 1) for v in (form.mean, form.std)
    )
    pixels = torch.empty((count, len(form.mean), *form.shape), device=device)
    # a CPU's caches hold so many: of large batches each step would fetch all of it from
    # memory again
    few = (
        max(1, FLOATS_AT_ONCE // pixels[0].numel())
        if device.type == "cpu" and batch.packed is None
        else count
    )
    for start in range(0, count, few):
        images = drawn(
            _rows(batch, start, start + few) if few < count else batch, form.shape
        )
        # bytes whose channels come last are put in order as bytes: a quarter of the
        # floats
        images = images if images.stride(3) == 1 else images.contiguous()
        pixels[start : start + few].copy_(images).div_(255).sub_(mean).div_(std)
    done = batch._replace(
        boxes_B5=None, shifts_B2=None, mirrored_B=None, resident=None, packed=None
    )
    return done._replace(images_BCHW=pixels)


def _rows(batch: Batch, start: int, end: int) -> Batch:
    """These rows of what is still to be drawn."""
    boxes, mirrored, shifts = (
        None if each is None else each[start:end]
        for each in (batch.boxes_B5, batch.mirrored_B, batch.shifts_B2)
    )
    images = (
        batch.images_BCHW[start:end] if batch.resident is None else batch.images_BCHW
    )
    return Batch(
        images,
        batch.labels_B,
        batch.ids_B[start:end],
        batch.epoch,
        boxes,
        mirrored,
        (),
        shifts,
        batch.resident,
    )


def drawn(batch: Batch, shape: tuple[int, int]) -> Tensor:
    """The images, 0..255, with all that is still to be done to them before they are normalised."""
    images = (
        batch.images_BCHW
        if batch.resident is None
        else batch.resident.taken(batch.ids_B)
    )
    if batch.packed is not None:
        assert batch.boxes_B5 is not None
        images = unpacked(batch.packed, images, batch.boxes_B5, shape)
    elif batch.boxes_B5 is not None:
        images = crop_resize(images, batch.boxes_B5, shape)
    mirrored = batch.mirrored_B
    if batch.shifts_B2 is not None:
        none = torch.zeros_like(batch.ids_B, dtype=torch.bool)
        return moved(images, batch.shifts_B2, none if mirrored is None else mirrored)
    return images if mirrored is None else flipped(images.contiguous(), mirrored)
