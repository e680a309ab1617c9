"""Decide whether a claim of the paper holds for our rows.

A claim is a conjunction of inequalities mean(high) - mean(low) > margin.

It holds once each of them has been confirmed: an intersection-union test (Berger 1982)
needs no correction for their number. It does not hold once one of them is refuted, at a
level that is shared among all (Bonferroni). There is no difference once each that is
not confirmed is shown to be of rows that are alike. The first verdict stays, however
many seeds are added later.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from unmask.config.paper_facts import Claim
from unmask.config.schema import Scale
from unmask.reports.paper import reasons
from unmask.reports.paper.evidence import Evidence
from unmask.reports.paper.history import History
from unmask.reports.paper.inequalities import Inequality, inequalities
from unmask.reports.paper.outlook import Outlook, look_ahead
from unmask.reports.paper.samples import Sample
from unmask.reports.paper.sequential import FOUR_LOOKS, Anytime, Rule, SpentLevel

# "not run": rows that the claim is about have no result
Verdict = Literal[
    "holds", "does not hold", "no difference", "cannot tell yet", "not run"
]
DECIDED = ("holds", "does not hold", "no difference")


@dataclass(frozen=True)
class JudgedClaim:
    """A claim, its verdict, and the reason in a few sentences.

    seeds: at which look it was decided. pair: the inequality that the reason is about;
    history: what the looks have shown of it. bound: the largest difference that "no
    difference" leaves open. outlook: what would decide a claim that is undecided.
    """

    claim: Claim
    verdict: Verdict
    reason: str
    seeds: int | None = None
    bound: float | None = None
    outlook: Outlook | None = None
    pair: Inequality | None = None
    history: History | None = None

    @property
    def is_decided(self) -> bool:
        return self.verdict in DECIDED

    @property
    def title(self) -> str:
        """Return the verdict with its number, as in tables."""
        if self.bound is None:
            return self.verdict
        return f"no difference of more than {reasons.upwards(self.bound)} points"


class ColumnSamples(NamedTuple):
    """Our results in the column that a claim is about."""

    # by row
    samples: dict[str, Sample]
    # the rows that the best row must beat
    competing_rows: list[str]
    unit: str
    # in per cent of images: a value is then known to one image
    is_accuracy: bool
    # the rows that this scale does not make
    omitted_rows: Collection[str] = ()
    # the largest difference that counts as none
    alike_within: float | None = None
    # the paper's values
    paper: Mapping[str, float] = {}
    # what one seed of a row takes, with its pretraining, where it is known
    seconds: Mapping[str, float] = {}

    @property
    def comparable(self) -> dict[str, Sample]:
        """Return the samples, with a number of images only where values are shares."""
        return {
            row: Sample(values, images if self.is_accuracy else 0)
            for row, (values, images) in self.samples.items()
        }


@dataclass(frozen=True)
class Judging:
    """How all claims of a table are judged.

    alike_within: by stage, the largest difference that counts as none. seconds: by row,
    what one seed takes.
    """

    rule: Rule = FOUR_LOOKS
    alike_within: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def at(cls, scale: Scale, anytime: bool = False) -> "Judging":
        """Return how a scale's file has claims judged; `anytime`: after every seed."""
        rule = Anytime() if anytime else SpentLevel(tuple(scale.looks))
        return cls(rule, scale.alike)


def judge(claim: Claim, column: ColumnSamples, rule: Rule = FOUR_LOOKS) -> JudgedClaim:
    """Decide a claim from the results in its column, at the looks of the rule."""
    form = inequalities(claim, column.competing_rows)
    if missing := reasons.missing(form.rows, column.samples, column.omitted_rows):
        return JudgedClaim(claim, "not run", missing)
    evidence = Evidence(form, column.comparable, rule, column.alike_within)
    most = max(len(column.samples[row].values) for row in form.rows)
    for seeds in rule.moments(most):
        evidence.look(seeds)
        if decided := _decide(claim, evidence, column, seeds):
            return decided
    outlook = look_ahead(evidence)
    reason = reasons.undecided(evidence, outlook, column.unit, column.seconds)
    pair = evidence.weakest
    return JudgedClaim(claim, "cannot tell yet", reason, outlook=outlook, pair=pair)


def _decide(
    claim: Claim, evidence: Evidence, column: ColumnSamples, seeds: int
) -> JudgedClaim | None:
    """Return the claim with its verdict; None where it is still undecided."""
    rule = evidence.rule
    if evidence.refuted:
        reason = reasons.refuted(evidence, column.unit)
        pair = evidence.refuted.pair
        return JudgedClaim(claim, "does not hold", reason, seeds, pair=pair)
    if not evidence.unconfirmed:
        reason = reasons.confirmed(evidence, column.unit)
        return JudgedClaim(claim, "holds", reason, seeds, pair=evidence.closest)
    # rows within less may still be shown to be, or not to be, by a later look
    if evidence.is_alike and (claim.within is None or rule.is_last(seeds)):
        bound, pair, _ = evidence.widest
        reason = reasons.alike(evidence, column.unit, column.paper)
        return JudgedClaim(claim, "no difference", reason, seeds, bound, pair=pair)
    return None
