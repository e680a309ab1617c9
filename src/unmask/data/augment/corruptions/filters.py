"""Linear filters that several corruptions share.

These are boundaries, Gaussians and zooms as matrices, blurs along lines, and bilinear
sampling.
"""

import math
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

# scipy's names for what lies beyond the edge a of abc: aa|abc, cb|abc, ba|abc
Boundary = Literal["nearest", "mirror", "reflect"]


def fold_index(
    index: Int[Tensor, "..."], size: int, boundary: Boundary
) -> Int[Tensor, "..."]:
    """Map indices outside of [0, size) to the pixels that stand for them."""
    if boundary == "nearest":
        return index.clamp(0, size - 1)
    repeat = int(boundary == "reflect")  # whether the edge pixel comes twice
    period = 2 * (size - 1 + repeat)
    index = index.remainder(period)
    return torch.minimum(index, period - repeat - index)


def pad(
    image_CHW: Float[Tensor, "C H W"], reach: int, boundary: Boundary
) -> Float[Tensor, "C h w"]:
    height, width = image_CHW.shape[1:]
    rows = fold_index(torch.arange(-reach, height + reach), height, boundary)
    cols = fold_index(torch.arange(-reach, width + reach), width, boundary)
    return image_CHW[:, rows][:, :, cols]


@lru_cache(maxsize=64)
def gaussian_matrix(
    size: int, sigma: float, boundary: Boundary, truncate: float = 4.0
) -> Float[Tensor, "N N"]:
    """Return a matrix whose row i holds the weights of a Gaussian around i.

    sigma may exceed the image: the boundary folds the weights back. They are cut off
    at `truncate` standard deviations.
    """
    reach = int(truncate * sigma + 0.5)
    offsets = torch.arange(-reach, reach + 1)
    # sigma=0 leaves the image as it is
    weights = torch.exp(-0.5 * (offsets / (sigma or 1.0)) ** 2)
    weights = weights / weights.sum()
    columns = fold_index(torch.arange(size)[:, None] + offsets, size, boundary)
    return torch.zeros(size, size).scatter_add(1, columns, weights.expand(size, -1))


def gaussian_blur(
    image_CHW: Float[Tensor, "C H W"],
    sigma: float,
    boundary: Boundary = "nearest",
    truncate: float = 4.0,
) -> Float[Tensor, "C H W"]:
    """Blur by a Gaussian; the defaults are scikit-image's, which the originals use."""
    height, width = image_CHW.shape[1:]
    rows = gaussian_matrix(height, sigma, boundary, truncate)
    cols = gaussian_matrix(width, sigma, boundary, truncate)
    return rows @ image_CHW @ cols.mT


@lru_cache(maxsize=64)
def zoom_matrix(size: int, factor: float) -> Float[Tensor, "N N"]:
    """Return a matrix that enlarges the centre by `factor` >= 1, linearly.

    Corners map onto corners, and the result is cropped back to `size`.
    """
    kept = math.ceil(size / factor)
    enlarged = round(kept * factor)
    steps = torch.arange(size) + (enlarged - size) // 2
    source = (size - kept) // 2 + steps * ((kept - 1) / (enlarged - 1))
    return (1 - (source[:, None] - torch.arange(size)).abs()).clamp(min=0)


def zoom(image_CHW: Float[Tensor, "C H W"], factor: float) -> Float[Tensor, "C H W"]:
    height, width = image_CHW.shape[1:]
    return zoom_matrix(height, factor) @ image_CHW @ zoom_matrix(width, factor).mT


def line_weights(radius: float, sigma: float) -> list[float]:
    """Return half a Gaussian, 1 at its start."""
    return [math.exp(-0.5 * (i / sigma) ** 2) for i in range(2 * math.ceil(radius) + 1)]


def blur_along_line(
    image_CHW: Float[Tensor, "C H W"], radius: float, sigma: float, degrees: float
) -> Float[Tensor, "C H W"]:
    """Blur like ImageMagick's motion blur.

    It has 2 radius + 1 taps, all of which read pixels that lie ahead.
    """
    height, width = image_CHW.shape[1:]
    weights = line_weights(radius, sigma)
    reach = len(weights) - 1
    padded = pad(image_CHW, reach, "nearest")
    out = torch.zeros_like(image_CHW)
    for i, weight in enumerate(weights):
        top = reach + math.ceil(i * math.sin(math.radians(degrees)) - 0.5)
        left = reach + math.ceil(i * math.cos(math.radians(degrees)) - 0.5)
        ahead = padded[:, top : top + height, left : left + width]
        out += weight / sum(weights) * ahead
    return out


def sample_bilinear(
    image_CHW: Float[Tensor, "C H W"],
    y_HW: Float[Tensor, "h w"],
    x_HW: Float[Tensor, "h w"],
    boundary: Boundary,
) -> Float[Tensor, "C h w"]:
    """Read the image at places (y, x) between its pixels."""
    height, width = image_CHW.shape[1:]
    top, left = y_HW.floor(), x_HW.floor()
    out = torch.zeros(len(image_CHW), *y_HW.shape)
    # the four pixels around each place, weighted by how near they are
    for row in (0, 1):
        for col in (0, 1):
            weight = (1 - (y_HW - top - row).abs()) * (1 - (x_HW - left - col).abs())
            y = fold_index((top + row).long(), height, boundary)
            x = fold_index((left + col).long(), width, boundary)
            out += weight * image_CHW[:, y, x]
    return out
