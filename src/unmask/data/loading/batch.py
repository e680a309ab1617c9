"""Batches, and the part of their processing that is left to the training device."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from unmask.data.augment.resampling import resize_crops, shift_images
from unmask.data.images.nvjpeg import PackedJpegs, decode_packed
from unmask.data.images.unreadable import BadImage
from unmask.data.loading.on_device import OnDevice

FLOATS_PER_CHUNK = 2**19  # two megabytes


class Batch(NamedTuple):
    """A batch of one epoch: uint8 from the loader, normalised floats after `normalise`.

    images: the pixels. labels: -1 where there are none. ids: sample ids; view k of
    image i is sample i + k * (images of the split), and ids below that number are the
    images' own. bad_images: which could not be read.

    What `normalise` still has to do, if not None, in this order: on_device: take the
    images from the copy of the split there. packed_jpegs: decode them; `images` are the
    others. boxes: crop and resize to (top, left, height, width, mirrored). shifts: move
    over black, (down, right). mirrored: mirror.
    """

    images_BCHW: Tensor
    labels_B: Int[Tensor, "B"]
    ids_B: Int[Tensor, "B"]
    epoch: int
    boxes_B5: Int[Tensor, "B 5"] | None
    mirrored_B: Bool[Tensor, "B"] | None = None
    bad_images: tuple[BadImage, ...] = ()
    shifts_B2: Int[Tensor, "B 2"] | None = None
    on_device: OnDevice | None = None
    packed_jpegs: PackedJpegs | None = None


@dataclass(frozen=True)
class ImageFormat:
    """What the model sees.

    shape: (height, width). mean, std: per channel, of pixels in [0, 1]. eval_crop: side
    of the centre crop in evaluation, as a share of the image's.
    """

    shape: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    eval_crop: float = 1.0


def normalise(batch: Batch, image_format: ImageFormat) -> Batch:
    """Do what is left to do to the images, then bring them to zero mean, unit variance.

    This runs on the device where the batch is.
    """
    device = batch.images_BCHW.device
    count = len(batch.ids_B)
    mean = torch.tensor(image_format.mean, device=device).view(1, -1, 1, 1)
    std = torch.tensor(image_format.std, device=device).view(1, -1, 1, 1)
    channels = len(image_format.mean)
    pixels = torch.empty((count, channels, *image_format.shape), device=device)
    chunk = count
    # chunks that fit into a CPU's caches: each step on a large batch would fetch all of
    # it from memory again
    if device.type == "cpu" and batch.packed_jpegs is None:
        chunk = max(1, FLOATS_PER_CHUNK // pixels[0].numel())
    for start in range(0, count, chunk):
        part = _slice_batch(batch, start, start + chunk) if chunk < count else batch
        images = apply_pending(part, image_format.shape)
        # channels-last images are put in order as bytes, a quarter of the floats' size
        images = images if images.stride(3) == 1 else images.contiguous()
        pixels[start : start + chunk].copy_(images).div_(255).sub_(mean).div_(std)
    return batch._replace(
        images_BCHW=pixels,
        boxes_B5=None,
        mirrored_B=None,
        shifts_B2=None,
        on_device=None,
        packed_jpegs=None,
    )


def _slice_batch(batch: Batch, start: int, end: int) -> Batch:
    """Return the rows of a batch without packed JPEGs, for `apply_pending`."""
    boxes, mirrored, shifts = (
        None if each is None else each[start:end]
        for each in (batch.boxes_B5, batch.mirrored_B, batch.shifts_B2)
    )
    images = batch.images_BCHW
    return Batch(
        images[start:end] if batch.on_device is None else images,
        batch.labels_B,
        batch.ids_B[start:end],
        batch.epoch,
        boxes,
        mirrored,
        shifts_B2=shifts,
        on_device=batch.on_device,
    )


def apply_pending(
    batch: Batch, shape: tuple[int, int]
) -> Float[Tensor, "B C h w"] | UInt8[Tensor, "B C h w"]:
    """Return the images, 0..255, with everything done except normalisation."""
    images = batch.images_BCHW
    if batch.on_device is not None:
        images = batch.on_device.take(batch.ids_B)
    if batch.packed_jpegs is not None:
        assert batch.boxes_B5 is not None
        images = decode_packed(batch.packed_jpegs, images, batch.boxes_B5, shape)
    elif batch.boxes_B5 is not None:
        images = resize_crops(images, batch.boxes_B5, shape)
    mirrored = batch.mirrored_B
    if batch.shifts_B2 is not None:
        if mirrored is None:
            mirrored = torch.zeros_like(batch.ids_B, dtype=torch.bool)
        return shift_images(images, batch.shifts_B2, mirrored)
    return images if mirrored is None else flip_images(images.contiguous(), mirrored)


def flip_images(images_BCHW: Tensor, mirrored_B: Bool[Tensor, "B"]) -> Tensor:
    """Mirror the images where wanted."""
    count = len(images_BCHW)
    # to select whole rows of bytes is five times as fast as to choose at each pixel
    both = torch.cat([images_BCHW, images_BCHW.flip(3)])
    index_B = torch.arange(count, device=images_BCHW.device) + count * mirrored_B
    return both.index_select(0, index_B)
