"""Crops and flips as functions of (seed, epoch, sample id), and their resampling for a whole batch at once."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.randomness import Key, uniform

TRIES = 10
CUBIC = -0.5  # Pillow's bicubic coefficient
FIXED_SIDE = 0.875  # crop_fixed: 224 of 256 pixels
# crop_padded: an eighth of each side is added on both ends, 4 of CIFAR's 32 pixels
MARGIN = 8
FLOATS_AT_ONCE = 2**18  # a megabyte
KEPT_WEIGHTS = 2**22  # of all boxes of a small image: 32 x 32 pixels need half of it


@dataclass(frozen=True)
class Augment:
    """How training images are changed (MAE Table 1e): cropped to the centre, a fixed or a random size, or moved over
    a black margin; mirrored; by RandAugment or colour jitter; and by erasing a box (`randaugment`,
    `colour_jitter`).

    scale: the area of a random crop, as shares of the image. flip: mirror half of the images.
    repeats: views of each image in a batch.
    """

    crop: Literal["none", "fixed", "random", "random_once", "padded"] = "none"
    scale: tuple[float, float] = (0.2, 1.0)
    flip: bool = False
    centre: float = 1.0  # side of the centre crop where crop is none
    policy: str | None = None  # RandAugment, in timm's words
    erasing: float = 0.0  # share of images
    jitter: float = 0.0  # strength (`unmask.data.augment.colour_jitter`)
    repeats: int = 1

    def boxes(
        self,
        key: Key,
        ids_B: Int[Tensor, "B"],
        epoch: int,
        sizes_B2: Int[Tensor, "B 2"],
        shape: tuple[int, int],
    ) -> Int[Tensor, "B 5"]:
        """(top, left, height, width, mirrored) for images of (height, width) `sizes`, to be resized to `shape`."""
        if self.crop == "random":
            boxes = random_boxes(
                key, ids_B, epoch, sizes_B2, self.scale, shape[1] / shape[0]
            )
        elif self.crop == "random_once":
            boxes = once_boxes(
                key, ids_B, epoch, sizes_B2, self.scale, shape[1] / shape[0]
            )
        elif self.crop == "fixed":
            boxes = fixed_boxes(key, ids_B, epoch, sizes_B2, shape)
        else:
            boxes = centre_boxes(sizes_B2, shape, self.centre)
        if self.flip:
            boxes[:, 4] = uniform(key, epoch, ids_B, 1, first=63)[:, 0] < 0.5
        return boxes

    def shifts(
        self, key: Key, ids_B: Int[Tensor, "B"], epoch: int, shape: tuple[int, int]
    ) -> Int[Tensor, "B 2"] | None:
        """(down, right) for images of `shape`, where they are moved: a crop out of the image in its black margin."""
        if self.crop != "padded":
            return None
        margin_2 = torch.tensor(margins(shape))
        return (
            uniform(key, epoch, ids_B, 2).double() * (2 * margin_2 + 1)
        ).floor().long() - margin_2


def centre_boxes(
    sizes_B2: Int[Tensor, "B 2"], shape: tuple[int, int], share: float
) -> Int[Tensor, "B 5"]:
    """The largest centred box of the aspect of `shape`, its sides times `share` (0.875: 224 of 256)."""
    sides_B2 = _largest(sizes_B2, shape, share)
    corner_B2 = (sizes_B2 - sides_B2 + 1) // 2
    return torch.cat([corner_B2, sides_B2, torch.zeros_like(sides_B2[:, :1])], dim=1)


def fixed_boxes(
    key: Key,
    ids_B: Int[Tensor, "B"],
    epoch: int,
    sizes_B2: Int[Tensor, "B 2"],
    shape: tuple[int, int],
) -> Int[Tensor, "B 5"]:
    """A box of one size, anywhere: the paper does not publish its geometry, ours is 224 of 256."""
    sides_B2 = _largest(sizes_B2, shape, FIXED_SIDE)
    draw_B2 = uniform(key, epoch, ids_B, 2).double()
    corner_B2 = (draw_B2 * (sizes_B2 - sides_B2 + 1)).floor().long()
    return torch.cat([corner_B2, sides_B2, torch.zeros_like(sides_B2[:, :1])], dim=1)


def random_boxes(
    key: Key,
    ids_B: Int[Tensor, "B"],
    epoch: int,
    sizes_B2: Int[Tensor, "B 2"],
    scale: tuple[float, float],
    aspect: float = 1.0,
) -> Int[Tensor, "B 5"]:
    """torchvision's RandomResizedCrop: ten tries of area and log-uniform aspect in [3/4, 4/3], else the centre.

    aspect: width over height of the images to be made; that of the boxes lies around it.
    """
    draws_BR4 = uniform(key, epoch, ids_B, 4 * TRIES).double().view(-1, TRIES, 4)
    height_B1, width_B1 = sizes_B2.double()[:, :1], sizes_B2.double()[:, 1:]
    area_BR = (
        height_B1 * width_B1 * (scale[0] + (scale[1] - scale[0]) * draws_BR4[..., 0])
    )
    aspect_BR = aspect * torch.exp((2 * draws_BR4[..., 1] - 1) * math.log(4 / 3))
    w_BR, h_BR = (
        (area_BR * aspect_BR).sqrt().round(),
        (area_BR / aspect_BR).sqrt().round(),
    )
    fits_BR = (w_BR > 0) & (w_BR <= width_B1) & (h_BR > 0) & (h_BR <= height_B1)
    top_BR = (draws_BR4[..., 2] * (height_B1 - h_BR + 1)).floor()
    left_BR = (draws_BR4[..., 3] * (width_B1 - w_BR + 1)).floor()
    first_B = fits_BR.int().argmax(dim=1)
    tries_BR4 = torch.stack([top_BR, left_BR, h_BR, w_BR], dim=-1)
    chosen_B4 = tries_BR4[torch.arange(len(ids_B)), first_B].long()
    boxes_B4 = torch.where(
        fits_BR.any(1)[:, None], chosen_B4, _clamped_centre(sizes_B2, aspect)
    )
    return torch.cat([boxes_B4, torch.zeros_like(boxes_B4[:, :1])], dim=1)


def once_boxes(
    key: Key,
    ids_B: Int[Tensor, "B"],
    epoch: int,
    sizes_B2: Int[Tensor, "B 2"],
    scale: tuple[float, float],
    aspect: float = 1.0,
) -> Int[Tensor, "B 5"]:
    """The official probe's crop: the first try, cut to the image where it is too long (BYOL's way)."""
    draw_B4 = uniform(key, epoch, ids_B, 4).double()
    limits_B2 = sizes_B2.double()
    area_B = limits_B2.prod(dim=1) * (scale[0] + (scale[1] - scale[0]) * draw_B4[:, 0])
    aspect_B = aspect * torch.exp((2 * draw_B4[:, 1] - 1) * math.log(4 / 3))
    sides_B2 = torch.stack(
        [(area_B / aspect_B).sqrt().round(), (area_B * aspect_B).sqrt().round()], dim=1
    )
    sides_B2 = torch.minimum(sides_B2, limits_B2).clamp(min=1)
    corner_B2 = (draw_B4[:, 2:] * (limits_B2 - sides_B2 + 1)).floor()
    return torch.cat(
        [corner_B2, sides_B2, torch.zeros_like(area_B)[:, None]], dim=1
    ).long()


def _clamped_centre(sizes_B2: Int[Tensor, "B 2"], aspect: float) -> Int[Tensor, "B 4"]:
    """The whole image, cut to an aspect within [3/4, 4/3] of the wanted one: what RandomResizedCrop falls back to."""
    height, width = sizes_B2[:, 0], sizes_B2[:, 1]
    h = torch.minimum(height, (width * 4 / 3 / aspect).round().long())
    w = torch.minimum(width, (height * 4 / 3 * aspect).round().long())
    return torch.stack([(height - h) // 2, (width - w) // 2, h, w], dim=1)


def margins(shape: tuple[int, int]) -> tuple[int, int]:
    return shape[0] // MARGIN, shape[1] // MARGIN


def moved(
    images_BCHW: Tensor, shifts_B2: Int[Tensor, "B 2"], mirrored_B: Bool[Tensor, "B"]
) -> Tensor:
    """Each image moved (down, right) by no more than the margins, over black, then mirrored."""
    batch, channels, height, width = images_BCHW.shape
    up, left = margins((height, width))
    # one margin between two rows, channels or images serves both, and one more goes
    # before the first
    tall, wide = height + up, width + left
    first, image = up * wide + left, channels * tall * wide
    black = images_BCHW.new_zeros(2 * batch * image + first)
    both = black.as_strided(
        (2, batch, channels, height, width),
        (batch * image, image, tall * wide, wide, 1),
        first,
    )
    both[0], both[1] = images_BCHW, images_BCHW.flip(3)
    # a moved image is one run of memory: to copy that is many times as fast as to find
    # each of its pixels
    run = (channels - 1) * tall * wide + (height - 1) * wide + width
    right = torch.where(mirrored_B, -shifts_B2[:, 1], shifts_B2[:, 1])
    which = torch.arange(batch, device=images_BCHW.device) + batch * mirrored_B
    start_B = first + which * image - shifts_B2[:, 0] * wide - right
    found = black.as_strided((len(black) - run + 1, run), (1, 1)).index_select(
        0, start_B
    )
    return found.as_strided(
        (batch, channels, height, width), (run, tall * wide, wide, 1)
    )


def _largest(
    sizes_B2: Int[Tensor, "B 2"], shape: tuple[int, int], share: float
) -> Int[Tensor, "B 2"]:
    sizes = sizes_B2.double()
    per_pixel_B = torch.minimum(sizes[:, 0] / shape[0], sizes[:, 1] / shape[1])
    sides_B2 = (
        (per_pixel_B[:, None] * torch.tensor(shape).double() * share).round().long()
    )
    return torch.minimum(sides_B2.clamp(min=1), sizes_B2)


def resampling_matrix(
    start_B: Int[Tensor, "B"],
    length_B: Int[Tensor, "B"],
    size_in: int,
    size_out: int,
    mirrored_B: Int[Tensor, "B"],
) -> Float[Tensor, "B out in"]:
    """Weights that cut [start, start + length) out of `size_in` pixels and resize it to `size_out`, or mirror it, too.

    Pillow's antialiased bicubic: the kernel widens when shrinking and is renormalised at the box's edges.
    """
    if 2 * size_in**3 * size_out > KEPT_WEIGHTS:
        weight = _weights(start_B, length_B, size_in, size_out)
        return torch.where(mirrored_B[:, None, None].bool(), weight.flip(1), weight)
    kept = _all_weights(size_in, size_out, start_B.device)
    return kept.index_select(
        0, (mirrored_B * size_in + start_B) * size_in + length_B - 1
    )


@lru_cache(maxsize=8)
def _all_weights(
    size_in: int, size_out: int, device: torch.device
) -> Float[Tensor, "all out in"]:
    """Of every start and length; of a batch of small images they take longer to find than the pixels."""
    start, length = (
        each.flatten()
        for each in torch.meshgrid(
            *[torch.arange(size_in, device=device)] * 2, indexing="ij"
        )
    )
    weight = _weights(start, length + 1, size_in, size_out)
    return torch.cat([weight, weight.flip(1)])


def _weights(
    start_B: Int[Tensor, "B"], length_B: Int[Tensor, "B"], size_in: int, size_out: int
) -> Float[Tensor, "B out in"]:
    device = start_B.device
    scale_B11 = (length_B.float() / size_out)[:, None, None]
    width_B11 = scale_B11.clamp(min=1)
    pixel_1I = torch.arange(size_in, device=device, dtype=torch.float32)[None, None, :]
    centre_BO1 = (
        torch.arange(size_out, device=device)[None, :, None] + 0.5
    ) * scale_B11 + start_B[:, None, None]
    x = ((pixel_1I + 0.5 - centre_BO1) / width_B11).abs()
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = ((CUBIC * x - 5 * CUBIC) * x + 8 * CUBIC) * x - 4 * CUBIC
    weight = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    inside = (pixel_1I >= start_B[:, None, None]) & (
        pixel_1I < (start_B + length_B)[:, None, None]
    )
    weight = weight * inside
    return weight / weight.sum(dim=2, keepdim=True)


def crop_resize(
    images_BCHW: Tensor, boxes_B5: Int[Tensor, "B 5"], shape: tuple[int, int]
) -> Float[Tensor, "B C h w"]:
    """Cut out the boxes, resize, mirror: 0..255, columns first, both passes rounded and clipped like Pillow's."""
    top, left, height, width, mirrored = boxes_B5.unbind(1)
    rows = resampling_matrix(
        top, height, images_BCHW.shape[2], shape[0], torch.zeros_like(mirrored)
    )
    cols = resampling_matrix(left, width, images_BCHW.shape[3], shape[1], mirrored)
    batch, channels, before, _ = images_BCHW.shape
    out_BhCw = torch.empty(
        batch, shape[0], channels, shape[1], device=images_BCHW.device
    )
    # on a CPU what lies between the images and the result stays in its caches: three
    # times as fast
    few = (
        batch
        if images_BCHW.is_cuda
        else max(1, FLOATS_AT_ONCE // images_BCHW[0].numel())
    )
    parts = (each.split(few) for each in (images_BCHW, rows, cols, out_BhCw))
    for images, row, col, out in zip(*parts, strict=True):
        # rows of all channels side by side: one product an image is several times as
        # fast as one a channel
        pixels = images.transpose(1, 2).contiguous().float().flatten(1, 2)
        across = (
            torch.bmm(pixels, col.mT)
            .round_()
            .clamp_(0, 255)
            .view(len(images), before, -1)
        )
        out.copy_(torch.bmm(row, across).view_as(out))
    return out_BhCw.round_().clamp_(0, 255).transpose(1, 2)
