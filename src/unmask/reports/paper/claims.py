"""Decide whether a claim of the paper holds for our rows.

A claim is a conjunction of inequalities mean(high) - mean(low) > margin.

It holds if each of them is confirmed, one-sided at 95 %: an intersection-union test
(Berger 1982) needs no correction for their number. It does not hold if any of them is
refuted, at 5 % over all of them (Bonferroni).
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Literal, NamedTuple

import numpy as np

from unmask.config.paper_facts import Claim
from unmask.reports.paper.bootstrap import Estimate, Sample, resample

# "not run": rows that the claim is about have no result
Verdict = Literal["holds", "does not hold", "cannot tell", "not run"]
CONFIDENCE = 0.95


class Inequality(NamedTuple):
    """The statement mean(high) - mean(low) > margin about two rows."""

    high: str
    low: str
    margin: float = 0.0


@dataclass(frozen=True)
class JudgedClaim:
    """A claim, its verdict, and the reason in one sentence."""

    claim: Claim
    verdict: Verdict
    reason: str


class ColumnSamples(NamedTuple):
    """Our results in the column that a claim is about."""

    # by row
    samples: dict[str, Sample]
    # the rows that the best row must beat
    competing_rows: list[str]
    unit: str
    # in per cent of images: the spread of a single seed is then binomial
    is_accuracy: bool
    # the rows that this scale does not make
    omitted_rows: Collection[str] = ()


def inequalities(
    claim: Claim, competing_rows: list[str]
) -> tuple[list[Inequality], list[Inequality]]:
    """Return the inequalities that confirm the claim, and those that refute it.

    All of the first must be confirmed; one refuted of the second is enough.
    """
    if claim.best is not None:
        others = [row for row in competing_rows if row != claim.best]
        above = [Inequality(claim.best, other) for other in others]
        return above, above
    if claim.higher is not None:
        high, low = claim.higher
        above = [Inequality(high, low, claim.by)]
        return above, above
    if claim.within is not None:
        # |a - b| < within  is  a - b > -within  and  b - a > -within
        close = []
        for a, b in combinations(claim.rows or [], 2):
            close += [
                Inequality(a, b, -claim.within),
                Inequality(b, a, -claim.within),
            ]
        return close, close
    upwards = claim.rising or list(reversed(claim.falling or []))
    # A trend is confirmed between neighbours, which implies the rest, but any pair
    # in the wrong order refutes it.
    return (
        [Inequality(high, low) for low, high in pairwise(upwards)],
        [Inequality(high, low) for low, high in combinations(upwards, 2)],
    )


def judge(claim: Claim, column: ColumnSamples) -> JudgedClaim:
    """Decide a claim from the results in its column.

    The same results give the same verdict: the claim's text seeds the bootstrap.
    """
    to_confirm, to_refute = inequalities(claim, column.competing_rows)
    rows = list(
        dict.fromkeys(row for pair in to_refute for row in (pair.high, pair.low))
    )
    if missing := _describe_missing(rows, column):
        return JudgedClaim(claim, "not run", missing)
    digest = hashlib.sha256(claim.says.encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    estimates = {}
    for row in rows:
        sample = column.samples[row]
        estimate = resample(sample, column.is_accuracy, rng)
        if estimate is None:
            return JudgedClaim(claim, "cannot tell", _describe_no_spread(row, sample))
        estimates[row] = estimate
    differences = {
        pair: estimates[pair.high].minus(estimates[pair.low])
        for pair in {*to_confirm, *to_refute}
    }
    verdict, reason = _decide(to_confirm, to_refute, differences, column)
    return JudgedClaim(claim, verdict, reason)


def _decide(
    to_confirm: list[Inequality],
    to_refute: list[Inequality],
    differences: dict[Inequality, Estimate],
    column: ColumnSamples,
) -> tuple[Verdict, str]:
    """Return the verdict and its reason: the inequality that decided."""
    # Bonferroni: one false refutation in twenty over all inequalities together
    strict = 1 - (1 - CONFIDENCE) / len(to_refute)

    def distance(pair: Inequality, level: float, upper: bool) -> float:
        return differences[pair].bound(level, upper) - pair.margin

    worst = min(to_refute, key=lambda pair: distance(pair, strict, upper=True))
    worst_text = _describe_difference(worst, differences[worst], strict, column)
    if distance(worst, strict, upper=True) < 0:
        return "does not hold", f"{worst_text}."
    closest = min(to_confirm, key=lambda pair: distance(pair, CONFIDENCE, upper=False))
    text = _describe_difference(closest, differences[closest], CONFIDENCE, column)
    if distance(closest, CONFIDENCE, upper=False) > 0:
        count = len(to_confirm)
        suffix = f": the closest of {count} comparisons" if count > 1 else ""
        return "holds", f"{text}{suffix}."
    if len(to_refute) == 1:
        return "cannot tell", f"{text}."
    return "cannot tell", (
        f"{worst_text}: the likeliest to fail of {len(to_refute)} comparisons, at a"
        " level that is corrected for their number."
    )


def _describe_missing(rows: list[str], column: ColumnSamples) -> str | None:
    """Say which of the rows have no result; return None where all have one."""
    if len(rows) < 2:
        return "There are no two rows to compare."
    for start, missing in (
        ("This scale leaves out", set(rows) & set(column.omitted_rows)),
        ("No result yet of", set(rows) - column.samples.keys()),
    ):
        if missing:
            noun = "row" if len(missing) == 1 else "rows"
            names = ", ".join(f"“{row}”" for row in rows if row in missing)
            return f"{start} {noun} {names}."
    return None


def _describe_no_spread(row: str, sample: Sample) -> str:
    count = len(sample.values)
    seeds = "one seed" if count == 1 else f"{count} seeds with the same value"
    return (
        f"Row “{row}” has {seeds}, which does not say how far others would lie; run"
        " more seeds."
    )


def _describe_difference(
    pair: Inequality, difference: Estimate, level: float, column: ColumnSamples
) -> str:
    """Give the difference, its two-sided interval, and what was resampled."""
    low = difference.bound(level, upper=False)
    high = difference.bound(level, upper=True)
    # A bound at 95 % on either side is an interval of 90 %.
    percent = f"{100 * (2 * level - 1):.3g}"
    unit = "points" if "%" in column.unit else column.unit
    claimed = ""
    if pair.margin > 0:
        claimed = f"; the claim is more than {pair.margin:g}"
    elif pair.margin < 0:
        claimed = f"; the claim is less than {-pair.margin:g} in either direction"
    sizes = dict.fromkeys(
        _describe_size(column.samples[row]) for row in (pair.high, pair.low)
    )
    return (
        f"“{pair.high}” minus “{pair.low}” is {difference.mean:+.2f}"
        f" {unit} ({percent} % interval {low:+.2f} to {high:+.2f}, over"
        f" {' and '.join(sizes)}){claimed}"
    )


def _describe_size(sample: Sample) -> str:
    if sample.seeds_differ:
        return f"{len(sample.values)} seeds"
    seed = " of one seed" if len(sample.values) == 1 else ""
    return f"{sample.images:,} images{seed}"
