"""How far a difference of two measurements would vary: a bootstrap over seeds, or over the images of a single seed."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import special, stats  # type: ignore[import-untyped]

DRAWS = 10_000
FEWEST_RANKED = 3


class Sample(NamedTuple):
    """One row's values, a seed each, and how many images each was measured on."""

    values: tuple[float, ...]
    images: int

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def over_seeds(self) -> bool:
        """Seeds that agree to the last digit say nothing about how far others would lie."""
        return len(set(self.values)) > 1


class Deviations(NamedTuple):
    """Draws of (mean of a resample - mean), the mean's variance, its degrees of freedom, and the values' least step."""

    draws_N: Float[np.ndarray, "N"]
    variance: float
    df: float
    step: float = 0.0


class Difference(NamedTuple):
    """mean(a) - mean(b) and the draws around it."""

    mean: float
    draws_N: Float[np.ndarray, "N"]
    df: float
    step: float

    def bound(self, level: float, upper: bool) -> float:
        """The one-sided bound at `level`, widened from normal to Student's tails at that level.

        By 1.96's own ratio t_0.975 / 1.96 at every level, three equal rows would be told apart in 0.8 % of draws where
        0.2 % are allowed (Bonferroni over 28 pairs); the level's own ratio keeps what is allowed at all of them.
        """
        wider = special.stdtrit(self.df, level) / special.ndtri(level)
        reach = wider * np.quantile(self.draws_N, level if upper else 1 - level)
        # an image of each row decides nothing
        return float(self.mean + reach + (self.step if upper else -self.step))


def bootstrap_deviations(
    sample: Sample, accuracy: bool, rng: np.random.Generator
) -> Deviations | None:
    """None where nothing says how far the value would vary: a single seed of what is no accuracy in per cent."""
    n = len(sample.values)
    if sample.over_seeds:
        values_S = np.array(sample.values)
        resampled_SN = values_S[rng.integers(n, size=(n, DRAWS))]
        unbiased = math.sqrt(n / (n - 1))  # a resample of n varies by n - 1 parts of n
        return Deviations(
            (resampled_SN.mean(axis=0) - sample.mean) * unbiased,
            float(values_S.var(ddof=1)) / n,
            n - 1,
        )
    if not accuracy or sample.images < 1:
        return None
    # half an image of either kind: an accuracy of 100 % is not certain either
    share = (sample.mean / 100 * sample.images + 0.5) / (sample.images + 1)
    draws_N = 100 * (
        rng.binomial(sample.images, share, size=DRAWS) / sample.images - share
    )
    return Deviations(
        draws_N,
        1e4 * share * (1 - share) / sample.images,
        math.inf,
        100 / sample.images,
    )


def difference(
    a: tuple[Sample, Deviations], b: tuple[Sample, Deviations]
) -> Difference:
    """Degrees of freedom by Welch (1947) and Satterthwaite; infinite where both are over images."""
    (first, of_first), (second, of_second) = a, b
    total = of_first.variance + of_second.variance
    parts = sum(part.variance**2 / part.df for part in (of_first, of_second))
    draws_N, step = of_first.draws_N - of_second.draws_N, of_first.step + of_second.step
    return Difference(
        first.mean - second.mean, draws_N, total**2 / parts if parts else math.inf, step
    )


def rank_correlation(pairs: list[tuple[float, float]]) -> float | None:
    """Spearman's; None under three pairs or where one side is all equal."""
    if len(pairs) < FEWEST_RANKED or any(
        len(set(side)) == 1 for side in zip(*pairs, strict=True)
    ):
        return None
    return float(stats.spearmanr(*zip(*pairs, strict=True)).statistic)
