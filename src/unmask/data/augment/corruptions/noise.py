"""Gaussian, shot and impulse noise, drawn for each pixel and channel on its own."""

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
    """Poisson counts of mean image x photons, by inverse transform: exact, and one uniform number a pixel."""
    levels = (image_CHW * 255).round().long()
    cdf_LK = poisson_cdf(photons)
    # level + cdf rises from row to row, so that one search finds the count in the row
    # of a pixel's level
    rising = (cdf_LK + torch.arange(256, dtype=torch.float64)[:, None]).flatten()
    found = torch.searchsorted(rising, levels + draws.uniform(0, *image_CHW.shape))
    return (found - levels * cdf_LK.shape[1]).float() / photons


@lru_cache(maxsize=16)
def poisson_cdf(photons: float) -> Float[Tensor, "256 K"]:
    """P(count <= k) for each of the 256 grey levels; K is ten standard deviations above the brightest mean."""
    rates = torch.arange(256, dtype=torch.float64)[:, None] / 255 * photons
    counts = torch.arange(int(photons + 10 * photons**0.5 + 20), dtype=torch.float64)
    log_mass = torch.xlogy(counts, rates) - rates - torch.lgamma(counts + 1)
    return (log_mass.exp().cumsum(1)).clamp(max=1)


def impulse_noise(
    image_CHW: Float[Tensor, "C H W"], draws: Draws, share: float
) -> Float[Tensor, "C H W"]:
    """Salt and pepper: half of the hit values turn white, half black."""
    drawn = draws.uniform(0, *image_CHW.shape)
    return image_CHW.masked_fill(drawn < share, 0.0).masked_fill(drawn < share / 2, 1.0)
