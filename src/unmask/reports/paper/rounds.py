"""Which rows go on to the next look: the seeds are spent where they can decide."""

from collections.abc import Iterable, Mapping

from unmask.reports.paper.claims import JudgedClaim
from unmask.reports.paper.outlook import FUTILE
from unmask.reports.paper.sequential import SpentLevel


def is_futile(judged: JudgedClaim, rule: SpentLevel) -> bool:
    """Return whether the looks that are left will hardly decide the claim.

    The first look says too little of the spread to give up on a claim.
    """
    outlook = judged.outlook
    if judged.is_decided or outlook is None or outlook.seeds <= rule.looks[0]:
        return False
    return outlook.chance < FUTILE


def next_counts(
    counts: Mapping[str, int],
    judged: Iterable[JudgedClaim],
    rule: SpentLevel,
    most: int,
) -> dict[str, int]:
    """Return how many seeds each row has after the next round.

    The rows of an inequality that is not confirmed go on, of claims that are open.
    Which rows go on changes no error rate: the looks at a pair of rows are always a
    part of those that were fixed. counts: how many seeds each row has now; without a
    claim that is open it is returned as it is. most: seeds that no row exceeds.
    """
    wanted = dict(counts)
    for each in judged:
        if each.outlook is None or is_futile(each, rule):
            continue
        now = each.outlook.seeds
        look = next((look for look in rule.looks if now < look <= most), None)
        for row in each.outlook.rows if look else ():
            if row in counts:
                wanted[row] = max(wanted[row], look or 0)
    return wanted
