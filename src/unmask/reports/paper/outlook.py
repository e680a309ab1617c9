"""What it would take to decide a claim, if the differences seen are the true ones."""

import math
from dataclasses import dataclass

from scipy import special  # type: ignore[import-untyped]

from unmask.reports.paper.evidence import Evidence
from unmask.reports.paper.inequalities import Inequality
from unmask.reports.paper.sequential import Difference, SpentLevel

# of two one-sided tests each may fail
POWER_OF_TWO = 0.9
# with a smaller chance a claim is left as it is: no more seeds are spent on it
FUTILE = 0.2


@dataclass(frozen=True)
class Outlook:
    """Say how many seeds would decide a claim.

    needed: seeds a row, with a chance of 80 %; inf where no number is enough. verdict:
    the one that they would give. rows: those in an inequality that is not confirmed.
    chance: of a verdict at the last look (conditional power at the current trend; Lan,
    Simon & Halperin 1982); NaN where no look was fixed, or none has come. seeds: a row,
    of the look that says so.
    """

    needed: float
    rows: tuple[str, ...]
    verdict: str = ""
    chance: float = math.nan
    seeds: int = 0


def look_ahead(evidence: Evidence) -> Outlook:
    """Return the outlook of a claim that is undecided."""
    pairs = evidence.unconfirmed
    rows = tuple(dict.fromkeys(row for pair in pairs for row in (pair.high, pair.low)))
    rule = evidence.rule
    # Some rows have not reached the first look, or have no spread there.
    if any(pair not in evidence.latest for pair in pairs):
        first = rule.looks[0] if isinstance(rule, SpentLevel) else 2
        return Outlook(first, rows)
    chance = _chance(evidence, rule) if isinstance(rule, SpentLevel) else math.nan
    needed, verdict = _needed(evidence)
    seeds = min(evidence.latest[pair].seeds for pair in pairs)
    return Outlook(needed, rows, verdict, chance, seeds)


def _needed(evidence: Evidence) -> tuple[float, str]:
    """Return the least number of seeds a row for any verdict, and that verdict."""
    rule = evidence.rule
    holds = max(
        rule.needed(_ratio(evidence, pair, pair.margin))
        for pair in evidence.unconfirmed
    )
    # an inequality that needs fewest refutes the claim
    fails = min(
        rule.needed(-_ratio(evidence, pair, pair.margin), evidence.share)
        for pair in evidence.form.to_refute
        if pair in evidence.latest
    )
    return min(
        (holds, "holds"),
        (fails, "does not hold"),
        (_needed_alike(evidence), "no difference"),
        key=lambda choice: choice[0],
    )


def _needed_alike(evidence: Evidence) -> float:
    limit, rule = evidence.alike_within, evidence.rule
    if limit is None:
        return math.inf
    needed = max(
        rule.needed(_alike_ratio(evidence, pair, limit), power=POWER_OF_TWO)
        for pair in evidence.unconfirmed
    )
    # of rows that are claimed to be within a margin it is a verdict of the last look
    if any(pair.margin < 0 for pair in evidence.unconfirmed):
        last = rule.looks[-1] if isinstance(rule, SpentLevel) else math.inf
        return max(needed, last)
    return needed


def _ratio(evidence: Evidence, pair: Inequality, margin: float) -> float:
    """Return the distance to the margin by the root of both variances' sum."""
    difference = evidence.latest[pair]
    return (difference.mean - margin) / _spread(difference)


def _alike_ratio(evidence: Evidence, pair: Inequality, limit: float) -> float:
    difference = evidence.latest[pair]
    return (limit - abs(difference.mean)) / _spread(difference)


def _spread(difference: Difference) -> float:
    return difference.error * math.sqrt(difference.seeds)


def _chance(evidence: Evidence, rule: SpentLevel) -> float:
    """Return the conditional power of the likeliest verdict at the last look."""
    last = rule.looks[-1]
    level = rule.level(last)

    def power(pair: Inequality, ratio: float, level: float) -> float:
        done = evidence.latest[pair].seeds / last
        if done >= 1:
            return 0.0
        distance = ratio * math.sqrt(last) + special.ndtri(level)
        return float(special.ndtr(distance / math.sqrt(1 - done)))

    pairs = evidence.unconfirmed
    holds = min(power(p, _ratio(evidence, p, p.margin), level) for p in pairs)
    fails = max(
        power(p, -_ratio(evidence, p, p.margin), level / evidence.share)
        for p in evidence.form.to_refute
        if p in evidence.latest
    )
    alike = 0.0
    if (limit := evidence.alike_within) is not None:
        alike = min(power(p, _alike_ratio(evidence, p, limit), level) for p in pairs)
    return max(holds, fails, alike)
