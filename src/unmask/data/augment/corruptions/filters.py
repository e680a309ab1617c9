"""Linear filters that several corruptions share: boundaries, Gaussians and zooms as matrices, lines, bilinear reads."""

import math
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

# scipy's names: aa|abc, cb|abc, ba|abc
Boundary = Literal["nearest", "mirror", "reflect"]


def folded(
    index: Int[Tensor, "..."], size: int, boundary: Boundary
) -> Int[Tensor, "..."]:
    """Where an index outside of [0, size) reads."""
    if boundary == "nearest":
        return index.clamp(0, size - 1)
    repeat = int(boundary == "reflect")  # whether the edge pixel comes twice
    period = 2 * (size - 1 + repeat)
    index = index.remainder(period)
    return torch.minimum(index, period - repeat - index)


def padded(
    image_CHW: Float[Tensor, "C H W"], reach: int, boundary: Boundary
) -> Float[Tensor, "C h w"]:
    height, width = image_CHW.shape[1:]
    rows = folded(torch.arange(-reach, height + reach), height, boundary)
    cols = folded(torch.arange(-reach, width + reach), width, boundary)
    return image_CHW[:, rows][:, :, cols]


@lru_cache(maxsize=64)
def gaussian_matrix(
    size: int, sigma: float, boundary: Boundary, truncate: float = 4.0
) -> Float[Tensor, "N N"]:
    """Row i holds the weights of a Gaussian around i; sigma may exceed the image, the boundary folds it back."""
    reach = int(truncate * sigma + 0.5)
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (offsets / (sigma or 1.0)) ** 2)
    columns = folded(torch.arange(size)[:, None] + offsets, size, boundary)
    return torch.zeros(size, size).scatter_add(
        1, columns, (weights / weights.sum()).expand(size, -1)
    )


def smooth(
    image_CHW: Float[Tensor, "C H W"],
    sigma: float,
    boundary: Boundary = "nearest",
    truncate: float = 4.0,
) -> Float[Tensor, "C H W"]:
    """Gaussian blur; the defaults are those of scikit-image, which the originals call."""
    height, width = image_CHW.shape[1:]
    rows, cols = (
        gaussian_matrix(size, sigma, boundary, truncate) for size in (height, width)
    )
    return rows @ image_CHW @ cols.mT


@lru_cache(maxsize=64)
def zoom_matrix(size: int, factor: float) -> Float[Tensor, "N N"]:
    """Enlarge the centre by `factor` >= 1, linearly, corners onto corners, and cut back to `size`."""
    kept = math.ceil(size / factor)
    grown = round(kept * factor)
    steps = torch.arange(size) + (grown - size) // 2
    source = (size - kept) // 2 + steps * ((kept - 1) / (grown - 1))
    return (1 - (source[:, None] - torch.arange(size)).abs()).clamp(min=0)


def zoom(image_CHW: Float[Tensor, "C H W"], factor: float) -> Float[Tensor, "C H W"]:
    height, width = image_CHW.shape[1:]
    return zoom_matrix(height, factor) @ image_CHW @ zoom_matrix(width, factor).mT


def line_weights(radius: float, sigma: float) -> list[float]:
    """Half a Gaussian, 1 at its start."""
    return [math.exp(-0.5 * (i / sigma) ** 2) for i in range(2 * math.ceil(radius) + 1)]


def along_line(
    image_CHW: Float[Tensor, "C H W"], radius: float, sigma: float, degrees: float
) -> Float[Tensor, "C H W"]:
    """ImageMagick's motion blur: 2 radius + 1 taps, read from the pixels that lie ahead."""
    height, width = image_CHW.shape[1:]
    weights = line_weights(radius, sigma)
    reach = len(weights) - 1
    ahead = padded(image_CHW, reach, "nearest")
    out = torch.zeros_like(image_CHW)
    for i, weight in enumerate(weights):
        top = reach + math.ceil(i * math.sin(math.radians(degrees)) - 0.5)
        left = reach + math.ceil(i * math.cos(math.radians(degrees)) - 0.5)
        out += weight / sum(weights) * ahead[:, top : top + height, left : left + width]
    return out


def bilinear(
    image_CHW: Float[Tensor, "C H W"],
    y_HW: Float[Tensor, "h w"],
    x_HW: Float[Tensor, "h w"],
    boundary: Boundary,
) -> Float[Tensor, "C h w"]:
    """The image read between its pixels."""
    height, width = image_CHW.shape[1:]
    top, left = y_HW.floor(), x_HW.floor()
    out = torch.zeros(len(image_CHW), *y_HW.shape)
    for row in (0, 1):
        for col in (0, 1):
            weight = (1 - (y_HW - top - row).abs()) * (1 - (x_HW - left - col).abs())
            y = folded((top + row).long(), height, boundary)
            x = folded((left + col).long(), width, boundary)
            out += weight * image_CHW[:, y, x]
    return out
