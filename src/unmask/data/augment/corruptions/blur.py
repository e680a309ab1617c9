"""Defocus, frosted glass, motion and zoom."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unmask.data.augment.corruptions.filters import along_line, padded, smooth, zoom
from unmask.data.augment.corruptions.random import Draws


def disk(radius: float, edge: float) -> Float[Tensor, "N N"]:
    """A disk of sum one whose edge is softened by a small Gaussian (3 taps, 5 for radii above 8)."""
    soft = 1 if radius <= 8 else 2
    reach = int(radius) + soft
    steps = torch.arange(-reach, reach + 1)
    hard = (steps[:, None] ** 2 + steps**2 <= radius**2).float()
    line = torch.exp(-0.5 * (torch.arange(-soft, soft + 1) / edge) ** 2)
    kernel = F.conv2d(
        hard[None, None], torch.outer(line, line)[None, None], padding=soft
    )[0, 0]
    return kernel / kernel.sum()


def defocus_blur(
    image_CHW: Float[Tensor, "C H W"], draws: Draws, radius: float, edge: float
) -> Float[Tensor, "C H W"]:
    kernel = disk(radius, edge)
    image_CHW = padded(image_CHW, len(kernel) // 2, "mirror")
    return F.conv2d(image_CHW[:, None], kernel[None, None])[:, 0]


def glass_blur(
    image_CHW: Float[Tensor, "C H W"],
    draws: Draws,
    sigma: float,
    reach: float,
    passes: float,
) -> Float[Tensor, "C H W"]:
    """Blur, let every pixel take the place of a near one, blur again."""
    _, height, width = image_CHW.shape
    places_N = shuffled_places((height, width), draws, int(reach), int(passes))
    shuffled = smooth(image_CHW, sigma).flatten(1)[:, places_N]
    return smooth(shuffled.reshape(image_CHW.shape), sigma)


def shuffled_places(
    size: tuple[int, int], draws: Draws, reach: int, passes: int
) -> Int[Tensor, "N"]:
    """Which pixel is read where: in each pass every inner pixel, the last first, becomes one at most `reach` off.

    The original means to swap the two, but both sides of its assignment are views of one array, so the published
    images are copies one way, as here; swapping would raise the squared error of mild levels at 32 x 32 by some 60 %.
    """
    height, width = size
    rows, cols = (
        np.arange(height - reach, reach, -1),
        np.arange(width - reach, reach, -1),
    )
    offsets = (
        draws.uniform(0, passes, 2, len(rows), len(cols)).numpy() * 2 * reach
    ).astype(int) - reach
    here = rows[:, None] * width + cols
    places = list(range(height * width))
    for down, right in offsets:
        # in order, as a copied pixel may be copied again: plain lists are the fastest
        # loop in Python
        for a, b in zip(
            here.ravel().tolist(),
            (here + down * width + right).ravel().tolist(),
            strict=True,
        ):
            places[a] = places[b]
    return torch.tensor(places)


def motion_blur(
    image_CHW: Float[Tensor, "C H W"], draws: Draws, radius: float, sigma: float
) -> Float[Tensor, "C H W"]:
    """A stroke within 45 degrees of the horizontal."""
    return along_line(image_CHW, radius, sigma, draws.between(0, -45, 45))


def zoom_blur(
    image_CHW: Float[Tensor, "C H W"], draws: Draws, end: float, step: float
) -> Float[Tensor, "C H W"]:
    """The mean of the image and its zooms; a factor 1 among these gives the image a double weight."""
    # arange, as in the originals: with 1.11 it includes the end, with 1.16 it does not
    factors = np.arange(1, end, step).tolist()
    zoomed = [zoom(image_CHW, factor) for factor in factors]
    return (image_CHW + torch.stack(zoomed).sum(0)) / (len(factors) + 1)
