"""Compare a table of the paper with our results at one scale."""

import math
from collections import Counter
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import NamedTuple

import pandas as pd

from unmask.config.paper_facts import Claim, Paper
from unmask.reports.paper.claims import ColumnSamples, JudgedClaim, Judging, judge
from unmask.reports.paper.history import look_back
from unmask.reports.paper.result_rows import ResultRow, sort_rows
from unmask.reports.paper.samples import Sample, rank_correlation


class Correlation(NamedTuple):
    """Spearman's rank correlation of our row means with the paper's.

    rho is None for fewer than three rows, or where all values of a side are equal.
    """

    rho: float | None
    num_rows: int


@dataclass(frozen=True)
class Comparison:
    """One experiment at one scale beside the paper.

    numbers: by column and row the `paper`'s value and our `mean`, `std` and `count` of
    seeds; `minus_paper`; and the differences to the default row,
    `mean_minus_default` and `paper_minus_default`. NaN is an unknown one.
    """

    paper: Paper
    slug: str
    scale: str
    numbers: pd.DataFrame
    # results: each is a row, a column and a seed
    done: int
    expected: int
    # by column
    correlations: dict[str, Correlation]
    # a line each; none where the protocols are alike
    protocol_differences: list[str]
    # of `judge_claims`
    claims: list[JudgedClaim] = field(default_factory=list)
    # sentences of the scale's file about this table
    caveats: list[str] = field(default_factory=list)

    def cell(self, column: str, row: str) -> dict[Hashable, float]:
        """Return the numbers of one column in one row."""
        return self.numbers.loc[column].loc[row].to_dict()

    @property
    def trained_columns(self) -> list[str]:
        """Return the columns that we fill by training."""
        stages = [self.paper.column_stages(row) for row in self.paper.rows]
        return [name for name in self.paper.columns if any(name in s for s in stages)]

    @property
    def our_columns(self) -> list[str]:
        """Return the columns that we fill by training or by counting."""
        trained = self.trained_columns
        columns = self.paper.columns.items()
        return [name for name, c in columns if c.counted or name in trained]

    @property
    def has_papers_data(self) -> bool:
        """Return whether our rows are of the paper's images, at its size."""
        return not any(line.startswith("data: ") for line in self.protocol_differences)

    @property
    def verdict_counts(self) -> Counter[str]:
        """Return how many claims have each verdict."""
        return Counter(judged.verdict for judged in self.claims)

    @property
    def _claimant(self) -> str:
        return "the question" if self.paper.is_own else "the paper"

    @property
    def headline(self) -> str:
        """Say in one sentence how much is done, how alike it is, and the verdicts."""
        num_claims = len(self.claims)
        claims = f"{num_claims or 'no'} {'claim' if num_claims == 1 else 'claims'}"
        if not self.done:
            return (
                f"Nothing is measured at scale {self.scale} yet; {self._claimant}"
                f" makes {claims} here."
            )
        start = f"At scale {self.scale}"
        if self.done < self.expected:
            start += f", {self.done} of {self.expected} results so far"
        count = len(self.protocol_differences)
        if self.paper.is_own:
            pass
        elif count:
            number = "one difference" if count == 1 else f"{count} differences"
            start += f", with {number} from the paper's protocol"
        else:
            start += ", like for like"
        if not self.claims:
            return f"{start}: {self._claimant} makes no claim here."
        hold = self.verdict_counts["holds"]
        fail = self.verdict_counts["does not hold"]
        return (
            f"{start}: of {self._claimant}'s {claims}"
            f" {hold} {'holds' if hold == 1 else 'hold'},"
            f" {fail} {'does' if fail == 1 else 'do'} not,"
            f" {self.verdict_counts['no difference']} show no difference,"
            f" {self.verdict_counts['cannot tell yet']} cannot be told yet,"
            f" {self.verdict_counts['not run']} not run."
        )


@dataclass(frozen=True)
class Finding:
    """A comparison, the command that makes it, and the rows it was made of."""

    comparison: Comparison
    command: str
    cost: str = ""
    rows: list[ResultRow] = field(default_factory=list)
    # what a reader of the numbers must know
    notes: list[str] = field(default_factory=list)


def compare(
    paper: Paper,
    slug: str,
    scale: str,
    results: list[ResultRow],
    num_seeds: int,
    protocol_differences: list[str],
    omitted_rows: Collection[str] = (),
    counted_values: Mapping[str, Mapping[str, float]] | None = None,
) -> Comparison:
    """Return the comparison of our results with a table of the paper, not yet judged.

    num_seeds: with how many seeds each row is made.
    omitted_rows: the rows that this scale does not make.
    counted_values: by column, then row, what needs no training (FLOPs).
    Raise ConfigError for results that the paper's table has no place for.
    """
    results = sort_rows(results, paper)
    numbers = _numbers(paper, results, counted_values or {})
    expected = [
        (name, row.row)
        for row in paper.rows
        if row.row not in omitted_rows
        for name in paper.column_stages(row)
    ]
    # Seeds beyond those of the scale are shown but do not count as progress.
    done = numbers["count"].clip(upper=num_seeds).reindex(expected).sum()
    correlations = {}
    for name in paper.columns:
        if any(name == column for column, _ in expected):
            pairs = numbers.loc[[name], ["paper", "mean"]].dropna()
            correlations[name] = Correlation(rank_correlation(pairs), len(pairs))
    return Comparison(
        paper,
        slug,
        scale,
        numbers,
        int(done),
        len(expected) * num_seeds,
        correlations,
        protocol_differences,
    )


def judge_claims(
    paper: Paper,
    results: list[ResultRow],
    judging: Judging,
    omitted_rows: Collection[str] = (),
) -> list[JudgedClaim]:
    """Return the paper's claims, each with its verdict."""
    columns = {
        name: _column_samples(paper, name, results, judging, omitted_rows)
        for name in dict.fromkeys(claim.column for claim in paper.claims)
    }
    return [
        _judge_with_history(claim, columns[claim.column], judging)
        for claim in paper.claims
    ]


def _judge_with_history(
    claim: Claim, column: ColumnSamples, judging: Judging
) -> JudgedClaim:
    judged = judge(claim, column, judging.rule)
    if judged.pair is None:
        return judged
    history = look_back(
        judged.pair, column.comparable, judging.rule, column.paper, column.alike_within
    )
    return replace(judged, history=history)


def _column_samples(
    paper: Paper,
    name: str,
    results: list[ResultRow],
    judging: Judging,
    omitted_rows: Collection[str],
) -> ColumnSamples:
    # The best row need not beat a row that this scale omits, but a claim that names
    # such a row cannot be decided.
    competing_rows = [
        row.row
        for row in paper.rows
        if name in paper.column_stages(row) and row.row not in omitted_rows
    ]
    column = paper.columns[name]
    is_accuracy = "accuracy" in column.metric
    values = {row.row: row.values.get(name) for row in paper.rows}
    return ColumnSamples(
        _samples([result for result in results if result.column == name]),
        competing_rows,
        column.unit,
        is_accuracy,
        omitted_rows,
        judging.alike_within.get(column.stage or "") if is_accuracy else None,
        {row: value for row, value in values.items() if value is not None},
        judging.seconds,
    )


def _samples(results: list[ResultRow]) -> dict[str, Sample]:
    """Return each row's values by seed, up to the first seed that it lacks.

    A look is at the first seeds of a row. If later ones stood in for one that is still
    to come, what has come so far would choose the seeds.
    """
    order = sorted({result.seed for result in results})
    samples: dict[str, Sample] = {}
    for result in sorted(results, key=lambda result: result.seed):
        # a row that lacks the first seed has none, but is not one without a result
        earlier = samples.setdefault(result.row, Sample((), result.images)).values
        if order[len(earlier)] == result.seed:
            samples[result.row] = Sample((*earlier, result.value), result.images)
    return samples


def _numbers(
    paper: Paper,
    results: list[ResultRow],
    counted_values: Mapping[str, Mapping[str, float]],
) -> pd.DataFrame:
    """Return the numbers of a `Comparison`."""
    places = list(product(paper.columns, [row.row for row in paper.rows]))
    frame = pd.DataFrame(results, columns=ResultRow._fields).astype({"value": float})
    ours = frame.groupby(["column", "row"])["value"].agg(["mean", "std", "count"])
    numbers = ours.reindex(pd.MultiIndex.from_tuples(places))
    numbers["paper"] = [paper.row(row).values.get(name) for name, row in places]
    numbers = numbers.astype(float).fillna({"count": 0})
    is_default = numbers.index.get_level_values(1) == paper.default
    for key in ("mean", "paper"):
        base = numbers[key].where(is_default).groupby(level=0).transform("first")
        numbers[f"{key}_minus_default"] = (numbers[key] - base).mask(is_default)
    for name, values in counted_values.items():
        for row, value in values.items():
            numbers.loc[(name, row), "mean"] = value
    numbers["minus_paper"] = numbers["mean"] - numbers["paper"]
    # The paper's hours and our seconds are of other machines.
    in_seconds = [name for name, c in paper.columns.items() if c.metric == "seconds"]
    numbers.loc[in_seconds, "minus_paper"] = math.nan
    return numbers
