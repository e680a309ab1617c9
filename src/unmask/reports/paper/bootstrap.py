"""A bootstrap of the difference of two measurements.

It resamples the seeds or, where a row has a single seed, the images of that seed.
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import special, stats  # type: ignore[import-untyped]

DRAWS = 10_000
MIN_RANKED_ROWS = 3


class Sample(NamedTuple):
    """One row's values, one for each seed, and how many images measured each."""

    values: tuple[float, ...]
    images: int

    @property
    def seeds_differ(self) -> bool:
        """Return whether the seeds can tell how far other seeds would lie."""
        # Seeds that agree to the last digit are a rounding, not a spread of zero.
        return len(set(self.values)) > 1


class Estimate(NamedTuple):
    """A mean, or a difference of two, and how it varies under resampling."""

    mean: float
    # means of the resamples minus the mean
    draws_N: Float[np.ndarray, "N"]
    # of the mean
    variance: float
    # degrees of freedom of that variance
    df: float
    # smallest step between two possible values: an image of an accuracy
    resolution: float = 0.0

    def minus(self, other: "Estimate") -> "Estimate":
        """Return the difference.

        The degrees of freedom are Welch's (1947); they are infinite where both
        resample images.
        """
        # Welch-Satterthwaite: (v_a + v_b)^2 / (v_a^2 / df_a + v_b^2 / df_b)
        total = self.variance + other.variance
        parts = sum(part.variance**2 / part.df for part in (self, other))
        return Estimate(
            mean=self.mean - other.mean,
            draws_N=self.draws_N - other.draws_N,
            variance=total,
            df=total**2 / parts if parts else math.inf,
            resolution=self.resolution + other.resolution,
        )

    def bound(self, level: float, upper: bool) -> float:
        """Return the one-sided confidence bound at `level`."""
        # The bootstrap of few seeds has normal tails: widen them to Student's at
        # this very level. With the ratio t_0.975 / 1.96 at every level, three equal
        # rows would be told apart in 0.8 % of draws where 0.2 % are allowed
        # (Bonferroni over 28 pairs); the level's own ratio keeps to what is allowed.
        tail_ratio = special.stdtrit(self.df, level) / special.ndtri(level)
        quantile = np.quantile(self.draws_N, level if upper else 1 - level)
        # One image more or less in either row must decide nothing.
        step = self.resolution if upper else -self.resolution
        return float(self.mean + tail_ratio * quantile + step)


def resample(
    sample: Sample, is_accuracy: bool, rng: np.random.Generator
) -> Estimate | None:
    """Resample a row's seeds, or the images of a single seed.

    Return None where nothing tells how far the value would vary: a single seed of
    something that is no accuracy in per cent.
    """
    values_S = np.array(sample.values)
    mean = float(values_S.mean())
    if sample.seeds_differ:
        n = len(values_S)
        means_N = values_S[rng.integers(n, size=(n, DRAWS))].mean(axis=0)
        # The mean of a resample has (n - 1) / n of the unbiased variance.
        draws_N = (means_N - mean) * math.sqrt(n / (n - 1))
        return Estimate(mean, draws_N, float(values_S.var(ddof=1)) / n, n - 1)
    n = sample.images
    if not is_accuracy or n < 1:
        return None
    # Half an image of either kind is added: even 100 % is not certain.
    share = (mean / 100 * n + 0.5) / (n + 1)
    draws_N = 100 * (rng.binomial(n, share, size=DRAWS) / n - share)
    variance = 1e4 * share * (1 - share) / n
    return Estimate(mean, draws_N, variance, math.inf, 100 / n)


def rank_correlation(pairs: pd.DataFrame) -> float | None:
    """Return Spearman's rank correlation of two columns.

    Return None for fewer than three rows, or where one column is constant.
    """
    if len(pairs) < MIN_RANKED_ROWS or (pairs.nunique() == 1).any():
        return None
    return float(stats.spearmanr(pairs).statistic)
