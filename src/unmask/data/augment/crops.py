"""Crop boxes and flips, as functions of (seed, epoch, sample id).

`resampling` applies them to whole batches; the loader applies them image by image.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from unmask.data.images.view_box import view_boxes
from unmask.randomness import Key, uniform

NUM_TRIES = 10  # of RandomResizedCrop
FIXED_SIDE = 0.875  # crop_fixed: 224 of 256 pixels
# crop_padded: a black margin of an eighth of the side at each end, 4 pixels of
# CIFAR's 32
MARGIN_DIVISOR = 8
# words of random numbers before this one belong to the boxes
FLIP_WORD = 63


@dataclass(frozen=True)
class Augmentation:
    """How training images are changed (MAE Table 1e).

    crop: cut out the centre ("none"), a box of fixed or random size, or shift the
    image over a black margin ("padded"). scale: range of a random crop's area, as
    shares of the image. flip: mirror half of the images. centre: side of the centre
    crop, as a share. policy: RandAugment in timm's notation. erasing: share of images
    in which a random box is erased. jitter: strength of `colour_jitter`. repeats: views
    of each image in a batch. between_pixels: the centre crop is the official one, and
    not one of whole pixels. own: the user's (`own.AnyAugmentation`), after all others.
    """

    crop: Literal["none", "fixed", "random", "random_once", "padded"] = "none"
    scale: tuple[float, float] = (0.2, 1.0)
    flip: bool = False
    centre: float = 1.0
    policy: str | None = None
    erasing: float = 0.0
    jitter: float = 0.0
    repeats: int = 1
    between_pixels: bool = True
    own: Any = None

    @property
    def is_official_view(self) -> bool:
        """Return whether it cuts out what the official evaluation would."""
        return self.crop in ("none", "padded") and self.between_pixels

    def draw_boxes(
        self,
        key: Key,
        ids_B: Int[Tensor, "B"],
        epoch: int,
        sizes_B2: Int[Tensor, "B 2"],
        shape: tuple[int, int],
    ) -> Int[Tensor, "B 5"] | Float64[Tensor, "B 5"]:
        """Draw a box (top, left, height, width, mirrored) for each image.

        sizes: (height, width) of the images. The boxes are to be resized to `shape`,
        whose aspect ratio they follow. Those of whole pixels are cut out before; those
        between pixels are cut out of the resized image.
        """
        aspect = shape[1] / shape[0]
        if self.crop == "random":
            boxes = random_boxes(key, ids_B, epoch, sizes_B2, self.scale, aspect)
        elif self.crop == "random_once":
            boxes = single_try_boxes(key, ids_B, epoch, sizes_B2, self.scale, aspect)
        elif self.crop == "fixed":
            boxes = fixed_boxes(key, ids_B, epoch, sizes_B2, shape)
        elif self.is_official_view:
            boxes = official_boxes(sizes_B2, shape, self.centre)
        else:
            boxes = centre_boxes(sizes_B2, shape, self.centre)
        # a word of its own: flips do not depend on the kind of crop
        if self.flip:
            coin_B = uniform(key, epoch, ids_B, 1, first=FLIP_WORD)[:, 0]
            boxes[:, 4] = coin_B < 0.5
        return boxes

    def draw_shifts(
        self, key: Key, ids_B: Int[Tensor, "B"], epoch: int, shape: tuple[int, int]
    ) -> Int[Tensor, "B 2"] | None:
        """Draw (down, right) for crop="padded" on images of `shape`, else None.

        To shift the image by these is to crop it out of its black margin.
        """
        if self.crop != "padded":
            return None
        margin_2 = torch.tensor(margin_sizes(shape))
        drawn_B2 = uniform(key, epoch, ids_B, 2).double()
        return (drawn_B2 * (2 * margin_2 + 1)).floor().long() - margin_2


def margin_sizes(shape: tuple[int, int]) -> tuple[int, int]:
    """Return the largest (down, right) shift of crop_padded."""
    return shape[0] // MARGIN_DIVISOR, shape[1] // MARGIN_DIVISOR


def official_boxes(
    sizes_B2: Int[Tensor, "B 2"], shape: tuple[int, int], share: float
) -> Float64[Tensor, "B 5"]:
    """Return the boxes of the official evaluation, whose edges lie between pixels."""
    boxes_B4 = torch.from_numpy(view_boxes(sizes_B2.numpy(), shape, share))
    return torch.cat([boxes_B4, torch.zeros_like(boxes_B4[:, :1])], dim=1)


def centre_boxes(
    sizes_B2: Int[Tensor, "B 2"], shape: tuple[int, int], share: float
) -> Int[Tensor, "B 5"]:
    """Return the largest centred boxes of `shape`'s aspect, their sides times `share`.

    They are rounded to whole pixels, as before version 0.2.
    """
    sides_B2 = _largest_sides(sizes_B2, shape, share)
    corner_B2 = (sizes_B2 - sides_B2 + 1) // 2
    return torch.cat([corner_B2, sides_B2, torch.zeros_like(sides_B2[:, :1])], dim=1)


def fixed_boxes(
    key: Key,
    ids_B: Int[Tensor, "B"],
    epoch: int,
    sizes_B2: Int[Tensor, "B 2"],
    shape: tuple[int, int],
) -> Int[Tensor, "B 5"]:
    """Draw boxes of one size, anywhere in the image.

    The paper does not publish the geometry; ours is 224 of 256 pixels.
    """
    sides_B2 = _largest_sides(sizes_B2, shape, FIXED_SIDE)
    drawn_B2 = uniform(key, epoch, ids_B, 2).double()
    corner_B2 = (drawn_B2 * (sizes_B2 - sides_B2 + 1)).floor().long()
    return torch.cat([corner_B2, sides_B2, torch.zeros_like(sides_B2[:, :1])], dim=1)


def random_boxes(
    key: Key,
    ids_B: Int[Tensor, "B"],
    epoch: int,
    sizes_B2: Int[Tensor, "B 2"],
    scale: tuple[float, float],
    aspect: float = 1.0,
) -> Int[Tensor, "B 5"]:
    """Draw the boxes of torchvision's RandomResizedCrop.

    Area and log-uniform aspect in [3/4, 4/3] are tried up to ten times; if no box fits,
    the centre is used. aspect: width over height of the resized images; those of the
    boxes lie around it.
    """
    drawn_BR4 = uniform(key, epoch, ids_B, 4 * NUM_TRIES).double()
    drawn_BR4 = drawn_BR4.view(-1, NUM_TRIES, 4)
    height_B1 = sizes_B2.double()[:, :1]
    width_B1 = sizes_B2.double()[:, 1:]
    share_BR = scale[0] + (scale[1] - scale[0]) * drawn_BR4[..., 0]
    area_BR = height_B1 * width_B1 * share_BR
    aspect_BR = aspect * torch.exp((2 * drawn_BR4[..., 1] - 1) * math.log(4 / 3))
    w_BR = (area_BR * aspect_BR).sqrt().round()
    h_BR = (area_BR / aspect_BR).sqrt().round()
    fits_BR = (w_BR > 0) & (w_BR <= width_B1) & (h_BR > 0) & (h_BR <= height_B1)
    top_BR = (drawn_BR4[..., 2] * (height_B1 - h_BR + 1)).floor()
    left_BR = (drawn_BR4[..., 3] * (width_B1 - w_BR + 1)).floor()
    # argmax returns the first of equal values: the first try that fits
    first_B = fits_BR.int().argmax(dim=1)
    tries_BR4 = torch.stack([top_BR, left_BR, h_BR, w_BR], dim=-1)
    chosen_B4 = tries_BR4[torch.arange(len(ids_B)), first_B].long()
    fallback_B4 = _clamped_centre(sizes_B2, aspect)
    boxes_B4 = torch.where(fits_BR.any(1)[:, None], chosen_B4, fallback_B4)
    return torch.cat([boxes_B4, torch.zeros_like(boxes_B4[:, :1])], dim=1)


def single_try_boxes(
    key: Key,
    ids_B: Int[Tensor, "B"],
    epoch: int,
    sizes_B2: Int[Tensor, "B 2"],
    scale: tuple[float, float],
    aspect: float = 1.0,
) -> Int[Tensor, "B 5"]:
    """Draw the boxes of the official linear probe.

    They are the first try of RandomResizedCrop, clipped to the image where a side is
    too long (as BYOL does).
    """
    drawn_B4 = uniform(key, epoch, ids_B, 4).double()
    limits_B2 = sizes_B2.double()
    share_B = scale[0] + (scale[1] - scale[0]) * drawn_B4[:, 0]
    area_B = limits_B2.prod(dim=1) * share_B
    aspect_B = aspect * torch.exp((2 * drawn_B4[:, 1] - 1) * math.log(4 / 3))
    height_B = (area_B / aspect_B).sqrt().round()
    width_B = (area_B * aspect_B).sqrt().round()
    sides_B2 = torch.stack([height_B, width_B], dim=1)
    sides_B2 = torch.minimum(sides_B2, limits_B2).clamp(min=1)
    corner_B2 = (drawn_B4[:, 2:] * (limits_B2 - sides_B2 + 1)).floor()
    unmirrored_B1 = torch.zeros_like(area_B)[:, None]
    return torch.cat([corner_B2, sides_B2, unmirrored_B1], dim=1).long()


def _clamped_centre(sizes_B2: Int[Tensor, "B 2"], aspect: float) -> Int[Tensor, "B 4"]:
    """Return RandomResizedCrop's fallback: the centre, as large as aspects allow.

    Its aspect lies within [3/4, 4/3] of the wanted one.
    """
    height, width = sizes_B2[:, 0], sizes_B2[:, 1]
    h = torch.minimum(height, (width * 4 / 3 / aspect).round().long())
    w = torch.minimum(width, (height * 4 / 3 * aspect).round().long())
    return torch.stack([(height - h) // 2, (width - w) // 2, h, w], dim=1)


def _largest_sides(
    sizes_B2: Int[Tensor, "B 2"], shape: tuple[int, int], share: float
) -> Int[Tensor, "B 2"]:
    """Return the sides of the largest box of `shape`'s aspect, times `share`."""
    sizes = sizes_B2.double()
    per_pixel_B = torch.minimum(sizes[:, 0] / shape[0], sizes[:, 1] / shape[1])
    exact_B2 = per_pixel_B[:, None] * torch.tensor(shape).double() * share
    # rounding must not leave the image, nor an empty box
    return torch.minimum(exact_B2.round().long().clamp(min=1), sizes_B2)
