"""Whether a claim of the paper holds for our rows.

Every claim is a conjunction of inequalities mean(high) - mean(low) > margin. It holds if each of them is confirmed,
one-sided at 95 %: an intersection-union test (Berger 1982) needs no correction for their number. It does not hold if
any is refuted, at 5 % over all of them (Bonferroni).
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Literal, NamedTuple

import numpy as np

from unmask.config.experiments import Claim
from unmask.reports.paper.bootstrap import (
    Difference,
    Sample,
    bootstrap_deviations,
    difference,
)

Verdict = Literal["holds", "does not hold", "cannot tell"]
LEVEL = 0.95


class Inequality(NamedTuple):
    """mean(high) - mean(low) > margin."""

    high: str
    low: str
    margin: float = 0.0


@dataclass(frozen=True)
class Judged:
    """A claim, its verdict, and why in one sentence."""

    claim: Claim
    verdict: Verdict
    why: str


class Measured(NamedTuple):
    """What is known of a claim's column: each row's sample, which rows compete, which a scale leaves out."""

    samples: dict[str, Sample]
    rivals: list[str]
    unit: str
    accuracy: bool  # per cent of images: one seed's spread is then binomial
    left_out: Collection[str] = ()


def inequalities(
    claim: Claim, rivals: list[str]
) -> tuple[list[Inequality], list[Inequality]]:
    """What must all be confirmed, and what may be refuted: of a trend any pair, but neighbours imply the rest."""
    if claim.best is not None:
        above = [
            Inequality(claim.best, other) for other in rivals if other != claim.best
        ]
        return above, above
    if claim.higher is not None:
        high, low = claim.higher
        return [Inequality(high, low, claim.by)], [Inequality(high, low, claim.by)]
    if claim.within is not None:
        pairs = combinations(claim.rows or [], 2)
        close = [
            Inequality(*order, -claim.within)
            for a, b in pairs
            for order in ((a, b), (b, a))
        ]
        return close, close
    upwards = claim.rising or list(reversed(claim.falling or []))
    return (
        [Inequality(high, low) for low, high in pairwise(upwards)],
        [Inequality(high, low) for low, high in combinations(upwards, 2)],
    )


def judge(claim: Claim, measured: Measured) -> Judged:
    """Deterministic: the bootstrap's generator is seeded by what the claim says."""
    to_confirm, to_refute = inequalities(claim, measured.rivals)
    needed = list(
        dict.fromkeys(row for pair in to_refute for row in (pair.high, pair.low))
    )
    if fault := _lacking(needed, measured):
        return Judged(claim, "cannot tell", fault)
    rng = np.random.default_rng(
        int.from_bytes(hashlib.sha256(claim.says.encode()).digest()[:8], "little")
    )
    known = {}
    for row in needed:
        sample = measured.samples[row]
        around = bootstrap_deviations(sample, measured.accuracy, rng)
        if around is None:
            return Judged(claim, "cannot tell", _one_seed(row, sample))
        known[row] = sample, around
    differences = {
        pair: difference(known[pair.high], known[pair.low])
        for pair in {*to_confirm, *to_refute}
    }
    return _verdict(claim, to_confirm, to_refute, differences, measured)


def _verdict(
    claim: Claim,
    to_confirm: list[Inequality],
    to_refute: list[Inequality],
    differences: dict[Inequality, Difference],
    measured: Measured,
) -> Judged:
    strict = 1 - (1 - LEVEL) / len(to_refute)
    beaten = {
        pair: differences[pair].bound(strict, upper=True) - pair.margin
        for pair in to_refute
    }
    worst = min(to_refute, key=lambda pair: beaten[pair])
    if beaten[worst] < 0:
        return Judged(
            claim,
            "does not hold",
            _why(worst, differences[worst], strict, measured) + ".",
        )
    slack = {
        pair: differences[pair].bound(LEVEL, upper=False) - pair.margin
        for pair in to_confirm
    }
    closest = min(to_confirm, key=lambda pair: slack[pair])
    why = _why(closest, differences[closest], LEVEL, measured)
    count = len(to_confirm)
    if slack[closest] > 0:
        return Judged(
            claim,
            "holds",
            why + (f": the closest of {count} comparisons." if count > 1 else "."),
        )
    if len(to_refute) == 1:
        return Judged(claim, "cannot tell", why + ".")
    why = _why(worst, differences[worst], strict, measured)
    return Judged(
        claim,
        "cannot tell",
        f"{why}: the likeliest to fail of {len(to_refute)} comparisons, whose level is "
        "corrected for their number.",
    )


def _lacking(needed: list[str], measured: Measured) -> str | None:
    """What is missing, in words."""
    if len(needed) < 2:
        return "There are no two rows to compare."
    if absent := [row for row in needed if row in measured.left_out]:
        return f"This scale leaves out {_listed(absent)}."
    if absent := [row for row in needed if row not in measured.samples]:
        return f"No result yet of {_listed(absent)}."
    return None


def _listed(rows: list[str]) -> str:
    return ("row " if len(rows) == 1 else "rows ") + ", ".join(
        f"“{row}”" for row in rows
    )


def _one_seed(row: str, sample: Sample) -> str:
    seeds = (
        "one seed"
        if len(sample.values) == 1
        else f"{len(sample.values)} seeds with the same value"
    )
    return (
        f"Row “{row}” has {seeds}, which does not say how far others would lie; run"
        " more seeds."
    )


def points(unit: str) -> str:
    """What a difference of two values in that unit is counted in."""
    return "points" if "%" in unit else unit


def _why(pair: Inequality, found: Difference, level: float, measured: Measured) -> str:
    """The decisive difference with its two-sided interval, and what the interval is over."""
    low, high = found.bound(level, upper=False), found.bound(level, upper=True)
    percent = f"{100 * (2 * level - 1):.3g}"
    claimed = ""
    if pair.margin > 0:
        claimed = f"; more than {pair.margin:g} is claimed"
    elif pair.margin < 0:
        claimed = f"; less than {-pair.margin:g} either way is claimed"
    bases = dict.fromkeys(
        _basis(measured.samples[row]) for row in (pair.high, pair.low)
    )
    return (
        f"“{pair.high}” less “{pair.low}” is {found.mean:+.2f} {points(measured.unit)}"
        f" ({percent} % interval {low:+.2f} to {high:+.2f}, over"
        f" {' and '.join(bases)}){claimed}"
    )


def _basis(sample: Sample) -> str:
    if sample.over_seeds:
        return f"{len(sample.values)} seeds"
    return f"{sample.images:,} images" + (
        " of one seed" if len(sample.values) == 1 else ""
    )
