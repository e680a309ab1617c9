"""Variance components with intervals: of seeds, of seeds within seeds, of test images.

Seeds are taken to be normal, with one variance for all rows; images are resampled.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special  # type: ignore[import-untyped]

# of a two-sided interval of 95 %
TAIL = 0.025
# resamples of the images
DRAWS = 400
# two seeds tell the part that images have from the part that is of one seed alone
MIN_SEEDS = 2


class Component(NamedTuple):
    """A variance in squared points, with the ends of its 95 % interval.

    df: its degrees of freedom; NaN where it is a difference of two variances.
    """

    variance: float
    low: float
    high: float
    df: float


def pooled(groups: Sequence[Sequence[float]]) -> Component | None:
    """Return the variance within groups of values; None where no group has two."""
    groups = [group for group in groups if len(group) > 1]
    df = sum(len(group) - 1 for group in groups)
    if not df:
        return None
    squares = sum(float(np.var(group)) * len(group) for group in groups)
    variance = squares / df
    low = squares / special.chdtri(df, TAIL)
    high = squares / special.chdtri(df, 1 - TAIL)
    return Component(variance, low, high, df)


def excess(total: Component, part: Component) -> Component:
    """Return what of the total is not the part, at least 0.

    Its interval is the modified large-sample one for a difference of two independent
    variances (Ting et al. 1990; Burdick & Graybill 1992, Sec. 3.3).
    """
    a, b = total.variance, part.variance
    lower = _reach(TAIL, total, part)
    upper = _reach(TAIL, part, total)
    ends = a - b - lower, a - b + upper
    low, high = (max(0.0, end) for end in ends)
    return Component(max(0.0, a - b), low, high, math.nan)


def _reach(tail: float, above: Component, below: Component) -> float:
    """Return how far above - below may exceed its true value."""
    # 1 - 1/F with infinitely many degrees of freedom below, and 1/F - 1
    g = 1 - above.df / special.chdtri(above.df, tail)
    h = below.df / special.chdtri(below.df, 1 - tail) - 1
    f = float(special.fdtri(above.df, below.df, 1 - tail))
    cross = ((f - 1) ** 2 - (g * f) ** 2 - h**2) / f
    a, b = above.variance, below.variance
    return math.sqrt(max(0.0, (g * a) ** 2 + (h * b) ** 2 + cross * a * b))


def of_images(tables: Sequence[np.ndarray]) -> Component | None:
    """Return what other test images of the same kind would change, in squared points.

    tables: of seeds by images, each value in per cent of an image; one row of a paper's
    table each, or the difference of two. All are of the same images. What two seeds
    share is the images' own: their covariance over images, by the number of images.
    None where no table has two seeds.
    """
    tables = [table for table in tables if len(table) >= MIN_SEEDS]
    if not tables:
        return None
    count = tables[0].shape[1]
    draws = np.random.default_rng(0).integers(count, size=(DRAWS, count))
    resampled = [_shared(tables, images) for images in draws]
    low, high = np.quantile(resampled, [TAIL, 1 - TAIL])
    variance = _shared(tables, np.arange(count))
    return Component(
        max(0.0, variance), max(0.0, float(low)), max(0.0, float(high)), count - 1
    )


def _shared(tables: Sequence[np.ndarray], images: np.ndarray) -> float:
    """Return the mean covariance of two seeds over these images, by their number."""
    covariances = []
    for table in tables:
        chosen = table[:, images]
        seeds = len(chosen)
        # of all pairs at once: the variance of the sum, less those of single seeds
        of_sum = chosen.sum(axis=0).var(ddof=1)
        of_seeds = chosen.var(axis=1, ddof=1).sum()
        covariances.append((of_sum - of_seeds) / (seeds * (seeds - 1)))
    return float(np.mean(covariances)) / len(images)


def binomial(accuracies: Sequence[float], images: int) -> float:
    """Return the mean variance of an accuracy over so many images drawn anew."""
    return float(np.mean([p * (100 - p) for p in accuracies])) / images
