"""A claim of the paper as inequalities between rows of one column."""

from itertools import combinations, pairwise
from typing import NamedTuple

from unmask.config.paper_facts import Claim


class Inequality(NamedTuple):
    """The statement mean(high) - mean(low) > margin about two rows."""

    high: str
    low: str
    margin: float = 0.0

    @property
    def rows(self) -> frozenset[str]:
        """Return the two rows, whichever is to be higher."""
        return frozenset((self.high, self.low))


class ClaimForm(NamedTuple):
    """The inequalities that confirm a claim, and those that refute it.

    All of the first must be confirmed; one refuted of the second is enough.
    """

    to_confirm: list[Inequality]
    to_refute: list[Inequality]

    @property
    def all(self) -> list[Inequality]:
        """Return each inequality once."""
        return list(dict.fromkeys([*self.to_confirm, *self.to_refute]))

    @property
    def rows(self) -> list[str]:
        """Return the rows that the claim is about, each once."""
        names = [row for pair in self.to_refute for row in (pair.high, pair.low)]
        return list(dict.fromkeys(names))


def inequalities(claim: Claim, competing_rows: list[str]) -> ClaimForm:
    """Return the claim's inequalities; the best row must beat the competing ones."""
    if claim.best is not None:
        others = [row for row in competing_rows if row != claim.best]
        above = [Inequality(claim.best, other) for other in others]
        return ClaimForm(above, above)
    if claim.higher is not None:
        high, low = claim.higher
        above = [Inequality(high, low, claim.by)]
        return ClaimForm(above, above)
    if claim.within is not None:
        # |a - b| < within  is  a - b > -within  and  b - a > -within
        close = []
        for a, b in combinations(claim.rows or [], 2):
            close += [
                Inequality(a, b, -claim.within),
                Inequality(b, a, -claim.within),
            ]
        return ClaimForm(close, close)
    upwards = claim.rising or list(reversed(claim.falling or []))
    # A trend is confirmed between neighbours, which implies the rest, but any pair
    # in the wrong order refutes it.
    return ClaimForm(
        [Inequality(high, low) for low, high in pairwise(upwards)],
        [Inequality(high, low) for low, high in combinations(upwards, 2)],
    )
