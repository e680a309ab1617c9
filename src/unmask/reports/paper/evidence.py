"""What the looks at our rows have shown of a claim's inequalities so far."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from unmask.reports.paper.inequalities import ClaimForm, Inequality
from unmask.reports.paper.samples import Sample
from unmask.reports.paper.sequential import Difference, Rule


class Refutation(NamedTuple):
    """The inequality that is refuted most clearly, and by which difference."""

    pair: Inequality
    difference: Difference


class Alike(NamedTuple):
    """A difference that is shown to be no larger than `bound`, in either direction."""

    bound: float
    pair: Inequality
    difference: Difference


@dataclass
class Evidence:
    """Look at a claim's rows, and remember what has been shown.

    alike_within: the largest difference that counts as none; None where none does.
    """

    form: ClaimForm
    samples: Mapping[str, Sample]
    rule: Rule
    alike_within: float | None
    latest: dict[Inequality, Difference] = field(default_factory=dict)
    confirmed: dict[Inequality, Difference] = field(default_factory=dict)
    alike: dict[frozenset[str], Alike] = field(default_factory=dict)
    refuted: Refutation | None = None

    @property
    def unconfirmed(self) -> list[Inequality]:
        return [pair for pair in self.form.to_confirm if pair not in self.confirmed]

    @property
    def is_alike(self) -> bool:
        """Whether all that is not confirmed is shown to be no difference."""
        return all(pair.rows in self.alike for pair in self.unconfirmed)

    @property
    def share(self) -> int:
        """Return among how many inequalities the level of a refutation is shared."""
        # Bonferroni: one refuted of them is enough
        return len(self.form.to_refute)

    @property
    def closest(self) -> Inequality:
        """Return the confirmed inequality that is nearest to its margin."""

        def clearance(pair: Inequality) -> float:
            difference = self.confirmed[pair]
            reach = self.rule.critical(difference) * difference.error
            return difference.mean - pair.margin - reach

        return min(self.form.to_confirm, key=clearance)

    @property
    def widest(self) -> Alike:
        """Return the largest bound on a difference that is not confirmed."""
        shown = (self.alike[pair.rows] for pair in self.unconfirmed)
        return max(shown, key=lambda alike: alike.bound)

    @property
    def weakest(self) -> Inequality:
        """Return the inequality that is furthest from being confirmed."""

        def score(pair: Inequality) -> float:
            difference = self.latest[pair]
            return (difference.mean - pair.margin) / difference.error

        # of rows without enough seeds nothing is known
        waiting = [pair for pair in self.unconfirmed if pair not in self.latest]
        return waiting[0] if waiting else min(self.unconfirmed, key=score)

    def look(self, seeds: int) -> None:
        """Judge each inequality whose two rows have so many seeds."""
        for pair in self.form.all:
            high, low = self.samples[pair.high], self.samples[pair.low]
            if min(len(high.values), len(low.values)) < seeds:
                continue
            difference = self.rule.compare(high, low, seeds)
            if difference:
                self.latest[pair] = difference
                self._judge(pair, difference)
        self._refute(seeds)

    def _judge(self, pair: Inequality, difference: Difference) -> None:
        """Note whether the inequality is confirmed, and whether the rows are alike."""
        reach = self.rule.critical(difference) * difference.error
        if difference.mean - pair.margin > reach:
            self.confirmed.setdefault(pair, difference)
        # two one-sided tests (Schuirmann 1987)
        bound = abs(difference.mean) + reach
        if self.alike_within is not None and bound <= self.alike_within:
            self.alike.setdefault(pair.rows, Alike(bound, pair, difference))

    def _refute(self, seeds: int) -> None:
        """Note the inequality that this look refutes most clearly, if there is one."""
        excess = {}
        for pair in self.form.to_refute:
            difference = self.latest.get(pair)
            if difference and difference.seeds == seeds:
                critical = self.rule.critical(difference, self.share)
                distance = (pair.margin - difference.mean) / difference.error
                excess[pair] = distance - critical
        worst = max(excess, key=lambda pair: excess[pair], default=None)
        if worst and excess[worst] > 0 and not self.refuted:
            self.refuted = Refutation(worst, self.latest[worst])
