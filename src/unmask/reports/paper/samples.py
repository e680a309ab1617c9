"""What one row of a table measured: a value for each seed."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats  # type: ignore[import-untyped]

MIN_RANKED_ROWS = 3


class Sample(NamedTuple):
    """One row's values, in the order of their seeds, and how many images measured each.

    images: 0 where the values are no accuracies in per cent.
    """

    values: tuple[float, ...]
    images: int

    def first(self, count: int) -> "Sample":
        """Return the sample of the first `count` seeds."""
        return Sample(self.values[:count], self.images)

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def variance(self) -> float:
        """Return the unbiased variance over seeds, at least that of rounding."""
        # Seeds that agree to the last digit are a rounding, not a spread of zero: a
        # value is known to one image, and a uniform error of that width has width^2/12.
        floor = (100 / self.images) ** 2 / 12 if self.images else 0.0
        return max(float(np.var(self.values, ddof=1)), floor)


def rank_correlation(pairs: pd.DataFrame) -> float | None:
    """Return Spearman's rank correlation of two columns.

    Return None for fewer than three rows, or where one column is constant.
    """
    if len(pairs) < MIN_RANKED_ROWS or (pairs.nunique() == 1).any():
        return None
    return float(stats.spearmanr(pairs).statistic)
