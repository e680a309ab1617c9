"""Gaussian, shot and impulse noise, drawn for each pixel and channel separately."""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.data.augment.corruptions.random import Draws


def gaussian_noise(
    image_CHW: Float[Tensor, "C H W"], draws: Draws, sigma: float
) -> Float[Tensor, "C H W"]:
    return image_CHW + sigma * draws.normal(0, *image_CHW.shape)


def shot_noise(
    image_CHW: Float[Tensor, "C H W"], draws: Draws, photons: float
) -> Float[Tensor, "C H W"]:
    """Draw Poisson counts of mean image x photons.

    The inverse transform is exact, and needs one uniform number for each pixel.
    """
    levels = (image_CHW * 255).round().long()
    cdf_LK = poisson_cdf(photons)
    # level + cdf rises from row to row, so one search finds the count in the row of a
    # pixel's level
    rising = (cdf_LK + torch.arange(256, dtype=torch.float64)[:, None]).flatten()
    drawn = draws.uniform(0, *image_CHW.shape)
    index = torch.searchsorted(rising, levels + drawn)
    counts = index - levels * cdf_LK.shape[1]
    return counts.float() / photons


@lru_cache(maxsize=16)
def poisson_cdf(photons: float) -> Float[Tensor, "256 K"]:
    """Return P(count <= k) for each of the 256 grey levels.

    The counts reach ten standard deviations above the mean of white.
    """
    rates = torch.arange(256, dtype=torch.float64)[:, None] / 255 * photons
    counts = torch.arange(int(photons + 10 * photons**0.5 + 20), dtype=torch.float64)
    log_mass = torch.xlogy(counts, rates) - rates - torch.lgamma(counts + 1)
    # rounding errors may add up to a little more than one
    return (log_mass.exp().cumsum(1)).clamp(max=1)


def impulse_noise(
    image_CHW: Float[Tensor, "C H W"], draws: Draws, share: float
) -> Float[Tensor, "C H W"]:
    """Turn a share of the values white or black (salt and pepper), half each."""
    drawn = draws.uniform(0, *image_CHW.shape)
    return image_CHW.masked_fill(drawn < share, 0.0).masked_fill(drawn < share / 2, 1.0)
