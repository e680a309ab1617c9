"""How often verdicts are wrong, and how many seeds they take: tables with known truths.

`python -m unmask.reports.paper.simulation --tables 2000` prints the tables of
docs/verdicts.md. Every verdict is that of `judge`, of planted values.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.table import Table

from unmask.config.paper_facts import Claim
from unmask.reports.paper.claims import ColumnSamples, JudgedClaim, judge
from unmask.reports.paper.rounds import next_counts
from unmask.reports.paper.samples import Sample
from unmask.reports.paper.sequential import (
    FOUR_LOOKS,
    Anytime,
    Rule,
    SpentLevel,
)

MOST_SEEDS = 40
LEVEL = 80.0  # of accuracies, in per cent
IMAGES = 1000
# in standard deviations of a row
ALIKE = 1.0

# (generator, number of seeds) -> deviations from the row's mean, of unit variance
Noise = Callable[[np.random.Generator, int], Float[np.ndarray, "S"]]


def normal(rng: np.random.Generator, seeds: int) -> Float[np.ndarray, "S"]:
    return rng.normal(size=seeds)


def heavy(rng: np.random.Generator, seeds: int) -> Float[np.ndarray, "S"]:
    """Return Student's t of 3 degrees of freedom, which has outliers on both sides."""
    return rng.standard_t(3, size=seeds) / 3**0.5


def skewed(rng: np.random.Generator, seeds: int) -> Float[np.ndarray, "S"]:
    """Return what a few bad seeds give: a tail downwards."""
    return 1 - rng.exponential(size=seeds)


class Noises(NamedTuple):
    """What seeds do to a value; step: of rounding; ratio: the first row's spread."""

    draw: Noise
    spread: float = 1.0
    step: float = 0.0
    ratio: float = 1.0


NOISES = {
    "normal": Noises(normal),
    "heavy tails": Noises(heavy),
    "both skewed": Noises(skewed),
    "ties": Noises(normal, spread=0.25, step=0.1),
    "spreads 25:1": Noises(normal, ratio=25.0),
    # no test of means withstands it
    "skewed, 10:1": Noises(skewed, ratio=10.0),
}


EACH_SEED = tuple(range(3, MOST_SEEDS + 1))
RULES: dict[str, Rule] = {
    "four looks": FOUR_LOOKS,
    "e-process": Anytime(),
    "once, at 24": SpentLevel((24,)),
    # 5 % after every seed, which nobody should
    "naive, each seed": SpentLevel(EACH_SEED, (1.0,) * len(EACH_SEED)),
}
HIGHER = Claim(says="first above second", column="lin", higher=["a", "b"])
WITHIN = Claim(says="close", column="lin", within=1.0, rows=["a", "b"])
BEST = Claim(says="best of four", column="lin", best="a")
RISING = Claim(says="rising", column="lin", rising=["a", "b", "c", "d"])


@dataclass
class Tally:
    """Count what became of the tables of one case."""

    verdicts: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    seeds: int = 0
    tables: int = 0

    def share(self, verdict: str) -> float:
        return self.verdicts[verdict] / self.tables

    @property
    def mean_seeds(self) -> float:
        """Return the seeds a row until the verdict, all where there is none."""
        return self.seeds / self.tables


def plant(
    means: Mapping[str, float],
    noise: Noises,
    rng: np.random.Generator,
    alike: bool = True,
) -> ColumnSamples:
    """Return a column of rows with these means, in standard deviations."""
    samples = {}
    for number, (row, mean) in enumerate(means.items()):
        spread = noise.spread / (1 if number == 0 else noise.ratio)
        deviations = spread * noise.draw(rng, MOST_SEEDS)
        values = LEVEL + noise.spread * mean + deviations
        if noise.step:
            values = noise.step * np.round(values / noise.step)
        samples[row] = Sample(tuple(values.tolist()), IMAGES)
    limit = ALIKE * noise.spread if alike else None
    return ColumnSamples(samples, list(means), "top-1 %", True, (), limit)


def is_wrong(judged: JudgedClaim, means: Mapping[str, float], spread: float) -> bool:
    """Return whether a verdict on two rows or a claim without `alike` is false."""
    values = list(means.values())
    claim = judged.claim
    if claim.within is not None:
        is_true = spread * abs(values[0] - values[1]) < claim.within
    elif claim.best is not None:
        is_true = values[0] > max(values[1:])
    elif claim.rising is not None:
        is_true = all(low < high for low, high in pairwise(values))
    else:
        is_true = values[0] > values[1]
    if judged.verdict == "holds":
        return not is_true
    if judged.verdict == "no difference":
        return spread * abs(values[0] - values[1]) > (judged.bound or 0.0)
    return judged.verdict == "does not hold" and is_true


def simulate(
    claim: Claim, means: Mapping[str, float], noise: str, rule: Rule, tables: int
) -> Tally:
    """Judge so many tables; the same arguments plant the same tables."""
    rng = np.random.default_rng(0)
    tally = Tally(tables=tables)
    for _ in range(tables):
        column = plant(means, NOISES[noise], rng, alike=len(means) == 2)
        judged = judge(claim, column, rule)
        tally.verdicts[judged.verdict] += 1
        tally.wrong += is_wrong(judged, means, NOISES[noise].spread)
        last = rule.looks[-1] if isinstance(rule, SpentLevel) else MOST_SEEDS
        tally.seeds += judged.seeds or last
    return tally


def simulate_rounds(claim: Claim, means: Mapping[str, float], tables: int) -> Tally:
    """Add seeds only to the rows that can decide; `seeds` are those of all rows."""
    rng = np.random.default_rng(0)
    tally = Tally(tables=tables)
    for _ in range(tables):
        column = plant(means, NOISES["normal"], rng, alike=False)
        judged, cells = spend(claim, column)
        tally.verdicts[judged.verdict] += 1
        tally.wrong += is_wrong(judged, means, 1.0)
        tally.seeds += cells
    return tally


def spend(claim: Claim, column: ColumnSamples) -> tuple[JudgedClaim, int]:
    """Return the verdict after all rounds, and how many cells they took."""
    rule = FOUR_LOOKS
    wanted = dict.fromkeys(column.samples, rule.looks[0])
    counts: dict[str, int] = {}
    while wanted != counts:
        counts = wanted
        made = {row: column.samples[row].first(n) for row, n in counts.items()}
        judged = judge(claim, column._replace(samples=made), rule)
        wanted = next_counts(counts, [judged], rule, rule.looks[-1])
    return judged, sum(counts.values())


def two_rows(tables: int) -> Table:
    """Return the table of claims on two rows, by rule, noise and difference."""
    table = Table(title="first above second", box=None, padding=(0, 1, 0, 0))
    for name in ("rule", "noise", "d", "holds", "not", "alike", "wrong", "seeds"):
        table.add_column(name)
    for rule_name, rule in RULES.items():
        for noise in NOISES:
            for difference in (0.0, 0.5, 1.0, 2.0, 4.0):
                means = {"a": difference, "b": 0.0}
                tally = simulate(HIGHER, means, noise, rule, tables)
                table.add_row(
                    *(rule_name, noise, f"{difference:g}"),
                    *(_percent(tally.share(v)) for v in ("holds", "does not hold")),
                    _percent(tally.share("no difference")),
                    _percent(tally.wrong / tables),
                    f"{tally.mean_seeds:.1f}",
                )
    return table


def many_rows(tables: int) -> Table:
    """Return the table of claims on several rows, with rows that stop early."""
    table = Table(title="rounds", box=None, padding=(0, 1, 0, 0))
    for name in ("claim", "means", "holds", "not", "wrong", "cells", "of"):
        table.add_column(name)
    for claim, means in (
        (BEST, (0.0, 0.0, -9.0, -9.0)),
        (BEST, (0.0, 0.0, 0.0, 0.0)),
        (BEST, (1.0, 0.0, 0.0, -2.0)),
        (BEST, (2.0, 0.0, 0.0, 0.0)),
        (BEST, (-1.0, 0.0, -2.0, -2.0)),
        (RISING, (0.0, 0.0, 9.0, 18.0)),
        (RISING, (0.0, 1.0, 2.0, 3.0)),
        (RISING, (0.0, 2.0, 4.0, 6.0)),
        (WITHIN, (1.0, 0.0)),
        (WITHIN, (0.0, 0.0)),
    ):
        rows = dict(zip("abcd", means, strict=False))
        tally = simulate_rounds(claim, rows, tables)
        table.add_row(
            claim.says,
            " ".join(f"{mean:g}" for mean in means),
            *(_percent(tally.share(v)) for v in ("holds", "does not hold")),
            _percent(tally.wrong / tables),
            f"{tally.mean_seeds:.1f}",
            str(FOUR_LOOKS.looks[-1] * len(means)),
        )
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=2000, help="of each case")
    tables = parser.parse_args().tables
    if tables < 1:
        parser.error(f"--tables {tables}: give at least 1")
    console = Console(width=100)
    console.print(two_rows(tables))
    console.print(many_rows(tables))


if __name__ == "__main__":
    main()
