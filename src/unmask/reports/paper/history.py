"""What the looks at two rows have shown of their difference, one after the other."""

from collections.abc import Mapping
from typing import NamedTuple

from unmask.reports.paper.inequalities import Inequality
from unmask.reports.paper.samples import Sample
from unmask.reports.paper.sequential import Rule


class Look(NamedTuple):
    """A difference after so many seeds of both rows, with its interval at that look."""

    seeds: int
    mean: float
    low: float
    high: float


class History(NamedTuple):
    """The looks at an inequality so far, and what they are compared with.

    paper: the difference of the paper's own rows. alike: the largest difference that
    counts as none. Each is None where there is none.
    """

    pair: Inequality
    looks: tuple[Look, ...]
    paper: float | None
    alike: float | None


def look_back(
    pair: Inequality,
    samples: Mapping[str, Sample],
    rule: Rule,
    paper: Mapping[str, float],
    alike: float | None,
) -> History:
    """Return the history of an inequality, at the looks that its rows have reached."""
    high, low = samples[pair.high], samples[pair.low]
    looks = []
    for seeds in rule.moments(min(len(high.values), len(low.values))):
        if difference := rule.compare(high, low, seeds):
            mean = difference.mean
            reach = rule.critical(difference) * difference.error
            looks.append(Look(seeds, mean, mean - reach, mean + reach))
    has_paper = pair.high in paper and pair.low in paper
    of_paper = paper[pair.high] - paper[pair.low] if has_paper else None
    return History(pair, tuple(looks), of_paper, alike)
