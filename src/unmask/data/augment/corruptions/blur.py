"""The blurs: defocus, frosted glass, motion and zoom."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unmask.data.augment.corruptions.filters import (
    blur_along_line,
    gaussian_blur,
    pad,
    zoom,
)
from unmask.data.augment.corruptions.random import Draws


def disk_kernel(radius: float, edge: float) -> Float[Tensor, "N N"]:
    """Return a disk that sums to one, its edge softened by a small Gaussian.

    The Gaussian has 3 taps, or 5 for radii above 8, and the standard deviation `edge`.
    """
    soft = 1 if radius <= 8 else 2
    reach = int(radius) + soft
    steps = torch.arange(-reach, reach + 1)
    hard = (steps[:, None] ** 2 + steps**2 <= radius**2).float()
    line = torch.exp(-0.5 * (torch.arange(-soft, soft + 1) / edge) ** 2)
    gaussian = torch.outer(line, line)
    kernel = F.conv2d(hard[None, None], gaussian[None, None], padding=soft)[0, 0]
    return kernel / kernel.sum()


def defocus_blur(
    image_CHW: Float[Tensor, "C H W"], draws: Draws, radius: float, edge: float
) -> Float[Tensor, "C H W"]:
    kernel = disk_kernel(radius, edge)
    image_CHW = pad(image_CHW, len(kernel) // 2, "mirror")
    return F.conv2d(image_CHW[:, None], kernel[None, None])[:, 0]


def glass_blur(
    image_CHW: Float[Tensor, "C H W"],
    draws: Draws,
    sigma: float,
    reach: float,
    passes: float,
) -> Float[Tensor, "C H W"]:
    """Blur, overwrite every pixel by a near one, and blur again."""
    _, height, width = image_CHW.shape
    index_N = shuffled_indices((height, width), draws, int(reach), int(passes))
    shuffled = gaussian_blur(image_CHW, sigma).flatten(1)[:, index_N]
    return gaussian_blur(shuffled.reshape(image_CHW.shape), sigma)


def shuffled_indices(
    size: tuple[int, int], draws: Draws, reach: int, passes: int
) -> Int[Tensor, "N"]:
    """Return the index of the pixel to read for each pixel of a flattened image.

    In each pass every inner pixel, from the last to the first, becomes a copy of one
    at most `reach` away. The original means to swap the two, but both sides of its
    assignment are views of one array: the published images are one-way copies, as here.
    Swapping would raise the squared error of mild levels at 32 x 32 by some 60 %.
    """
    height, width = size
    rows = np.arange(height - reach, reach, -1)
    cols = np.arange(width - reach, reach, -1)
    drawn = draws.uniform(0, passes, 2, len(rows), len(cols)).numpy()
    offsets = (drawn * 2 * reach).astype(int) - reach
    targets = rows[:, None] * width + cols
    indices = list(range(height * width))
    for down, right in offsets:
        sources = targets + down * width + right
        # in order, since a copied pixel may be copied again; plain lists are the
        # fastest loop in Python
        for target, source in zip(
            targets.ravel().tolist(), sources.ravel().tolist(), strict=True
        ):
            indices[target] = indices[source]
    return torch.tensor(indices)


def motion_blur(
    image_CHW: Float[Tensor, "C H W"], draws: Draws, radius: float, sigma: float
) -> Float[Tensor, "C H W"]:
    """Blur along a line within 45 degrees of the horizontal."""
    degrees = draws.uniform_between(0, -45, 45)
    return blur_along_line(image_CHW, radius, sigma, degrees)


def zoom_blur(
    image_CHW: Float[Tensor, "C H W"], draws: Draws, end: float, step: float
) -> Float[Tensor, "C H W"]:
    """Average the image and its zooms.

    The factors begin with 1, so the image itself counts twice.
    """
    # arange, as in the original: it includes the end 1.11, but not 1.16
    factors = np.arange(1, end, step).tolist()
    zoomed = [zoom(image_CHW, factor) for factor in factors]
    return (image_CHW + torch.stack(zoomed).sum(0)) / (len(factors) + 1)
