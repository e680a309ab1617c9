"""Tests of a difference of two rows that stay valid while seeds are added.

A rule says after how many seeds it looks, and how far a difference must lie from a
margin to be told from it. With either rule a false inequality is ever confirmed with a
probability of at most 5 %.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy import optimize, special  # type: ignore[import-untyped]

from unmask.reports.paper.samples import Sample

ALPHA = 0.05
# of a true difference that is as large as the one seen, once enough seeds are there
POWER = 0.8
LOOKS = (3, 6, 12, 24)
# variance of the standardised difference that the e-process expects
PRIOR_VARIANCE = 1.0
# Student's t beyond which the e-process is not searched
MAX_T = 1e6
# seeds a row beyond which nobody counts
MAX_SEEDS = 100_000


class Difference(NamedTuple):
    """The mean of one row minus that of another, over the same number of seeds.

    error: its standard error. df: the degrees of freedom of that.
    """

    mean: float
    error: float
    df: float
    seeds: int


@dataclass(frozen=True)
class SpentLevel:
    """Judge at looks that were fixed before the runs: Welch's t, the level spent.

    The k-th of K looks spends k / (1 + ... + K) of the 5 %: error spending (Lan &
    DeMets 1983) by the union bound. It holds for any correlation of rows and looks,
    and whatever makes a row stop.
    """

    looks: tuple[int, ...] = LOOKS
    # of the 5 %, for each look; None: in proportion to its number
    shares: tuple[float, ...] | None = None

    def moments(self, seeds: int) -> Sequence[int]:
        """Return after how many seeds there is a look, up to so many."""
        return [look for look in self.looks if look <= seeds]

    def level(self, seeds: int) -> float:
        """Return the level of the look after so many seeds."""
        number = self.looks.index(seeds) + 1
        count = len(self.looks)
        if self.shares:
            return ALPHA * self.shares[number - 1]
        return ALPHA * number / (count * (count + 1) / 2)

    def is_last(self, seeds: int) -> bool:
        """Tell whether no look comes after that of so many seeds."""
        return seeds >= self.looks[-1]

    def compare(self, a: Sample, b: Sample, seeds: int) -> Difference | None:
        """Return the difference over the first seeds of both (Welch 1947).

        None where neither row has a spread.
        """
        a, b = a.first(seeds), b.first(seeds)
        u, v = a.variance / seeds, b.variance / seeds
        if not u + v:
            return None
        df = (u + v) ** 2 * (seeds - 1) / (u**2 + v**2)
        return Difference(a.mean - b.mean, math.sqrt(u + v), df, seeds)

    def critical(self, difference: Difference, share: int = 1) -> float:
        """Return how many standard errors are beyond chance, at the level / share."""
        level = self.level(difference.seeds) / share
        return float(special.stdtrit(difference.df, 1 - level))

    def confidence(self, seeds: int, share: int = 1) -> float:
        """Return the level of the two-sided interval with this critical value."""
        return 1 - 2 * self.level(seeds) / share

    def needed(self, ratio: float, share: int = 1, power: float = POWER) -> float:
        """Return how many seeds a row tell a distance from a margin, at the last level.

        ratio: the distance by the root of the sum of both rows' variances.
        """
        if ratio <= 0:
            return math.inf
        level = self.level(self.looks[-1]) / share
        quantiles = special.ndtri(1 - level) + special.ndtri(power)
        return max(2.0, math.ceil((quantiles / ratio) ** 2))


@dataclass(frozen=True)
class Anytime:
    """Judge after every seed, for those who keep to no looks: an e-process.

    It is the right-Haar t e-process of the paired differences (Pérez-Ortiz et al.,
    Ann. Stat. 52, 2024; Wang & Ramdas, arXiv 2310.03722) with a half-normal prior on
    the standardised difference; 20 confirms (Ville's inequality).
    """

    def moments(self, seeds: int) -> Sequence[int]:
        """Return all numbers of seeds with a spread."""
        return range(2, seeds + 1)

    def is_last(self, seeds: int) -> bool:
        """Tell that there is no last look: another seed may always come."""
        return False

    def compare(self, a: Sample, b: Sample, seeds: int) -> Difference | None:
        """Return the mean of the paired differences; None where they have no spread."""
        pairs = zip(a.values[:seeds], b.values[:seeds], strict=True)
        differences = [first - second for first, second in pairs]
        floors = sum((100 / s.images) ** 2 / 12 for s in (a, b) if s.images)
        variance = max(float(np.var(differences, ddof=1)), floors)
        if not variance:
            return None
        error = math.sqrt(variance / seeds)
        return Difference(float(np.mean(differences)), error, seeds - 1, seeds)

    def critical(self, difference: Difference, share: int = 1) -> float:
        """Return the t at which the e-value is 20 times share; inf for none."""
        return critical_e_value(difference.seeds, share / ALPHA)

    def confidence(self, seeds: int, share: int = 1) -> float:
        """Return the level of the two-sided interval, at any number of seeds."""
        return 1 - 2 * ALPHA / share

    def needed(self, ratio: float, share: int = 1, power: float = POWER) -> float:
        """Return how many seeds a row tell a distance, as `SpentLevel.needed` does."""
        seeds = 2
        while seeds < MAX_SEEDS and ratio > 0:
            wanted = critical_e_value(seeds, share / ALPHA) + special.ndtri(power)
            if ratio * math.sqrt(seeds) >= wanted:
                return float(seeds)
            seeds += 1 + seeds // 50
        return math.inf


Rule = SpentLevel | Anytime
FOUR_LOOKS = SpentLevel()


def log_e_value(t: float, seeds: int) -> float:
    """Return the log evidence of Student's t against a mean of at most zero.

    It is the half-normal mixture, over the standardised mean, of the likelihood ratios
    of t (right-Haar: the variance is integrated out), in closed form.
    """
    spread = 1 + seeds * PRIOR_VARIANCE
    r = (1 - 1 / spread) * t**2 / (t**2 + seeds - 1)
    tail = special.stdtr(seeds, math.copysign(math.sqrt(seeds * r / (1 - r)), t))
    log_tail = math.log(tail) if tail else -math.inf
    return math.log(2) - 0.5 * math.log(spread) - seeds / 2 * math.log1p(-r) + log_tail


@cache
def critical_e_value(seeds: int, evidence: float) -> float:
    """Return the t whose e-value is `evidence`; inf where so few seeds have none."""
    wanted = math.log(evidence)
    if log_e_value(MAX_T, seeds) < wanted:
        return math.inf
    return float(
        optimize.brentq(lambda t: log_e_value(t, seeds) - wanted, 0.0, MAX_T, xtol=1e-9)
    )
