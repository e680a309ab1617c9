"""The sentences that give the reason of a verdict."""

import math
from collections.abc import Collection, Mapping

from unmask.reports.paper.evidence import Evidence
from unmask.reports.paper.inequalities import Inequality
from unmask.reports.paper.outlook import FUTILE, Outlook
from unmask.reports.paper.samples import Sample
from unmask.reports.paper.sequential import POWER, Difference, SpentLevel

# of standard deviations: beyond it a test leans on the symmetry of the noisier row
LARGE_RATIO = 3
HOUR = 3600
# nobody runs more of a row
MOST_SEEDS = 5000
VERDICTS = {
    "holds": "that it holds",
    "does not hold": "that it does not hold",
    "no difference": "no difference",
}


def missing(
    rows: list[str], samples: Mapping[str, Sample], omitted_rows: Collection[str]
) -> str | None:
    """Say which of the rows have no result; return None where all have one."""
    if len(rows) < 2:
        return "There are no two rows to compare."
    for start, absent in (
        ("This scale leaves out", set(rows) & set(omitted_rows)),
        ("No result yet of", set(rows) - samples.keys()),
    ):
        if absent:
            noun = "row" if len(absent) == 1 else "rows"
            names = ", ".join(f"“{row}”" for row in rows if row in absent)
            return f"{start} {noun} {names}."
    return None


def refuted(evidence: Evidence, unit: str) -> str:
    """Give the difference that refutes the claim."""
    assert evidence.refuted
    pair, difference = evidence.refuted
    text = _difference(evidence, pair, difference, unit, evidence.share)
    return f"{text}{_claimed(pair)}.{_caution(evidence, pair, difference)}"


def confirmed(evidence: Evidence, unit: str) -> str:
    """Give the difference that is closest to its margin, of those that confirm."""
    differences, closest = evidence.confirmed, evidence.closest
    text = _difference(evidence, closest, differences[closest], unit)
    count = len(evidence.form.to_confirm)
    suffix = f": the closest of {count} comparisons" if count > 1 else ""
    caution = _caution(evidence, closest, differences[closest])
    return f"{text}{_claimed(closest)}{suffix}.{caution}"


def alike(evidence: Evidence, unit: str, paper: Mapping[str, float]) -> str:
    """Give the bound on the difference, and how far apart the paper's rows are."""
    bound, pair, difference = evidence.widest
    text = _difference(evidence, pair, difference, unit)
    text += f": no more than {upwards(bound)} in either direction"
    text += f"; here up to {evidence.alike_within:g} count as none"
    if pair.high in paper and pair.low in paper:
        apart = abs(paper[pair.high] - paper[pair.low])
        text += f", and the paper's own two rows are {apart:.1f} apart"
    return f"{text}.{_caution(evidence, pair, difference)}"


def undecided(
    evidence: Evidence, outlook: Outlook, unit: str, seconds: Mapping[str, float]
) -> str:
    """Give the difference that decides least, and what would tell."""
    weakest = evidence.weakest
    if weakest not in evidence.latest:
        return _too_few(evidence, weakest, outlook, seconds)
    text = _difference(evidence, weakest, evidence.latest[weakest], unit)
    count = len(evidence.form.to_confirm)
    suffix = f": the weakest of {count} comparisons" if count > 1 else ""
    ahead = _ahead(evidence, outlook, seconds)
    return f"{text}{_claimed(weakest)}{suffix}. {ahead}"


def _too_few(
    evidence: Evidence, pair: Inequality, outlook: Outlook, seconds: Mapping[str, float]
) -> str:
    """Say that the rows have too few seeds, or all the same value."""
    row = min((pair.high, pair.low), key=lambda row: _count(evidence, row))
    count = _count(evidence, row)
    first = int(outlook.needed)
    if count >= first:
        return (
            f"The first {first} seeds of row “{row}” have the same value, which says"
            " nothing of how far others would lie; run more seeds."
        )
    seeds = "one seed" if count == 1 else f"{count} seeds"
    if not count:
        seeds = "no result with the first seed of the others"
    cost = _cost(evidence, outlook.rows, first, seconds)
    return (
        f"Row “{row}” has {seeds}; the first look is after {first} seeds a row. {cost}"
    )


def _ahead(evidence: Evidence, outlook: Outlook, seconds: Mapping[str, float]) -> str:
    """Say how many seeds would tell at the differences seen, or that none will."""
    rule = evidence.rule
    now = min(evidence.latest[pair].seeds for pair in evidence.unconfirmed)
    needed = outlook.needed
    about = f"about {needed:,.0f} seeds"
    if needed > MOST_SEEDS:
        about = "no practical number of seeds"
    wanted = max(needed, now + 1)
    if isinstance(rule, SpentLevel):
        last = rule.looks[-1]
        if now >= last:
            return f"The last look has been; at this difference {about} would tell."
        if needed > last:
            return _last_look(evidence, outlook, last, about, seconds)
        wanted = next(look for look in rule.looks if look >= wanted)
    if wanted > MOST_SEEDS:
        return f"At this difference {about} would tell."
    shown = VERDICTS[outlook.verdict]
    text = f"At this difference {wanted:,.0f} seeds a row would show {shown}."
    return f"{text} {_cost(evidence, outlook.rows, int(wanted), seconds)}".strip()


def _last_look(
    evidence: Evidence,
    outlook: Outlook,
    last: int,
    about: str,
    seconds: Mapping[str, float],
) -> str:
    """Say what the last look may still tell."""
    if outlook.chance < FUTILE:
        return (
            f"None of this scale's looks, up to {last} seeds a row, is likely to tell:"
            f" at this difference {about} would."
        )
    cost = _cost(evidence, outlook.rows, last, seconds)
    text = (
        f"{last} seeds a row, the last look, would tell with a chance of"
        f" {100 * outlook.chance:.0f} %"
    )
    # the chance counts on the seeds that are there, the number on new ones alone
    if outlook.chance < POWER:
        text += f", {about} with {100 * POWER:.0f} %"
    return f"{text}. {cost}"


def _cost(
    evidence: Evidence, rows: Collection[str], wanted: int, seconds: Mapping[str, float]
) -> str:
    """Say how many seeds more that is, and how many hours if that is known."""
    more = {row: max(0, wanted - _count(evidence, row)) for row in rows}
    total = sum(more.values())
    if not total:
        return ""
    text = f"That is {total:,} more run{'s' * (total > 1)}"
    if all(row in seconds for row in rows):
        time = sum(count * seconds[row] for row, count in more.items())
        hours = time / HOUR
        minutes = max(1, round(time / 60))
        noun = "minute" if minutes == 1 else "minutes"
        text += f", {hours:,.1f} hours" if hours >= 1 else f", {minutes} {noun}"
        text += " of computing"
    return f"{text}."


def _count(evidence: Evidence, row: str) -> int:
    return len(evidence.samples[row].values)


def _claimed(pair: Inequality) -> str:
    if pair.margin > 0:
        return f"; the claim is more than {pair.margin:g}"
    if pair.margin < 0:
        return f"; the claim is less than {-pair.margin:g} in either direction"
    return ""


def _difference(
    evidence: Evidence,
    pair: Inequality,
    difference: Difference,
    unit: str,
    share: int = 1,
) -> str:
    """Give the difference, its interval, and over how many seeds it was seen."""
    reach = evidence.rule.critical(difference, share) * difference.error
    percent = 100 * evidence.rule.confidence(difference.seeds, share)
    # a sum with zero is never -0.00
    mean = round(difference.mean, 2) + 0.0
    low, high = (difference.mean + side * reach for side in (-1, 1))
    interval = f"{round(low, 2) + 0.0:+.2f} to {round(high, 2) + 0.0:+.2f}"
    if math.isinf(reach):
        interval = "unbounded"
    unit = "points" if "%" in unit else unit
    # rounding must not make it 100
    shown = f"{percent:.3g}" if percent < 99.9 else f"{percent:.2f}"
    return (
        f"“{pair.high}” minus “{pair.low}” is {mean:+.2f} {unit} ({shown} %"
        f" interval {interval}, over {difference.seeds} seeds of each)"
    )


def _caution(evidence: Evidence, pair: Inequality, difference: Difference) -> str:
    """Warn where one row scatters far more than the other."""
    seeds = difference.seeds
    spreads = {
        row: math.sqrt(evidence.samples[row].first(seeds).variance)
        for row in (pair.high, pair.low)
    }
    quiet, noisy = sorted(spreads, key=lambda row: spreads[row])
    if spreads[noisy] <= LARGE_RATIO * spreads[quiet]:
        return ""
    ratio = f"{spreads[noisy] / spreads[quiet]:.0f} times as far as"
    if not spreads[quiet]:
        ratio = "far more than"
    return (
        f" Seeds of “{noisy}” scatter {ratio} those of “{quiet}”: the"
        " verdict leans on their being as often above their mean as below."
    )


def upwards(bound: float) -> str:
    """Return a bound with two decimals, never a smaller one."""
    return f"{math.ceil(100 * bound - 1e-9) / 100:.2f}"
