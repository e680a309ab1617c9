"""A bootstrap of the difference of two measurements.

It resamples the seeds or, where a row has a single seed, the images of that seed.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import special, stats  # type: ignore[import-untyped]

DRAWS = 10_000
MIN_RANKED_ROWS = 3


class Sample(NamedTuple):
    """One row's values, one for each seed, and how many images measured each."""

    values: tuple[float, ...]
    images: int

    @property
    def mean(self) -> float:
        """Return the mean over seeds."""
        return float(np.mean(self.values))

    @property
    def seeds_differ(self) -> bool:
        """Return whether the seeds can tell how far other seeds would lie."""
        # Seeds that agree to the last digit are a rounding, not a spread of zero.
        return len(set(self.values)) > 1


class Deviations(NamedTuple):
    """How one row's mean varies under resampling."""

    # mean of a resample minus the mean
    draws_N: Float[np.ndarray, "N"]
    # of the mean
    variance: float
    # degrees of freedom of that variance
    df: float
    # smallest step between two possible values: an image of an accuracy
    resolution: float = 0.0


class Difference(NamedTuple):
    """A difference of two means, and the draws around it."""

    mean: float
    draws_N: Float[np.ndarray, "N"]
    df: float
    resolution: float

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


def bootstrap_deviations(
    sample: Sample, is_accuracy: bool, rng: np.random.Generator
) -> Deviations | None:
    """Resample a row's seeds, or the images of a single seed.

    Return None where nothing tells how far the value would vary: a single seed of
    something that is no accuracy in per cent.
    """
    if sample.seeds_differ:
        return _resample_seeds(sample, rng)
    if not is_accuracy or sample.images < 1:
        return None
    return _resample_images(sample, rng)


def _resample_seeds(sample: Sample, rng: np.random.Generator) -> Deviations:
    n = len(sample.values)
    values_S = np.array(sample.values)
    resampled_SN = values_S[rng.integers(n, size=(n, DRAWS))]
    # The mean of a resample has (n - 1) / n of the unbiased variance.
    unbiased = math.sqrt(n / (n - 1))
    draws_N = (resampled_SN.mean(axis=0) - sample.mean) * unbiased
    variance = float(values_S.var(ddof=1)) / n
    return Deviations(draws_N, variance, n - 1)


def _resample_images(sample: Sample, rng: np.random.Generator) -> Deviations:
    n = sample.images
    # Half an image of either kind is added: even 100 % is not certain.
    share = (sample.mean / 100 * n + 0.5) / (n + 1)
    draws_N = 100 * (rng.binomial(n, share, size=DRAWS) / n - share)
    variance = 1e4 * share * (1 - share) / n
    return Deviations(draws_N, variance, math.inf, 100 / n)


def mean_difference(
    first: tuple[Sample, Deviations], second: tuple[Sample, Deviations]
) -> Difference:
    """Return mean(first) - mean(second) with its draws.

    The degrees of freedom are Welch's (1947); they are infinite where both samples
    resample images.
    """
    (sample_a, a), (sample_b, b) = first, second
    # Welch-Satterthwaite: (v_a + v_b)^2 / (v_a^2 / df_a + v_b^2 / df_b)
    total = a.variance + b.variance
    parts = sum(part.variance**2 / part.df for part in (a, b))
    return Difference(
        mean=sample_a.mean - sample_b.mean,
        draws_N=a.draws_N - b.draws_N,
        df=total**2 / parts if parts else math.inf,
        resolution=a.resolution + b.resolution,
    )


def rank_correlation(pairs: list[tuple[float, float]]) -> float | None:
    """Return Spearman's rank correlation.

    Return None for fewer than three pairs, or where one side is constant.
    """
    if len(pairs) < MIN_RANKED_ROWS:
        return None
    first, second = zip(*pairs, strict=True)
    if len(set(first)) == 1 or len(set(second)) == 1:
        return None
    return float(stats.spearmanr(first, second).statistic)
