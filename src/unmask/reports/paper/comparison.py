"""Compare a table of the paper with our results at one scale.

The outcome is plain values: numbers, progress, verdicts and one headline.
"""

import statistics
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from unmask.config.paper_facts import Paper, PaperRow
from unmask.reports.paper.bootstrap import Sample, rank_correlation
from unmask.reports.paper.claims import ColumnSamples, JudgedClaim, judge
from unmask.reports.paper.result_rows import ResultRow, sort_rows

# by column, then row
Samples = dict[str, dict[str, Sample]]


@dataclass(frozen=True)
class TableCell:
    """A number of the paper and ours, and their differences; None where unknown."""

    paper: float | None = None
    # ours: mean and sample standard deviation over seeds
    mean: float | None = None
    std: float | None = None
    num_seeds: int = 0
    minus_paper: float | None = None
    # differences to the default row, of the paper and of ours
    paper_minus_default: float | None = None
    minus_default: float | None = None


@dataclass(frozen=True)
class TableRow:
    """A row of the table, with a cell for each column of the paper."""

    label: str
    is_default: bool
    cells: dict[str, TableCell]


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of our row means with the paper's.

    rho is None for fewer than three rows, or where all values of a side are equal.
    """

    rho: float | None
    num_rows: int


@dataclass(frozen=True)
class Comparison:
    """One experiment at one scale beside the paper."""

    paper: Paper
    slug: str
    scale: str
    rows: list[TableRow]
    # results: each is a row, a column and a seed
    done: int
    expected: int
    claims: list[JudgedClaim]
    # by column
    correlations: dict[str, Correlation]
    # a line each; none where the protocols are alike
    protocol_differences: list[str]
    headline: str

    @property
    def trained_columns(self) -> list[str]:
        """Return the columns that we fill by training."""
        return [name for name in self.paper.columns if _is_trained(self.paper, name)]

    @property
    def our_columns(self) -> list[str]:
        """Return the columns that we fill by training or by counting."""
        return [
            name
            for name, column in self.paper.columns.items()
            if column.counted or _is_trained(self.paper, name)
        ]

    @property
    def verdict_counts(self) -> Counter[str]:
        """Return how many claims have each verdict."""
        return Counter(judged.verdict for judged in self.claims)


@dataclass(frozen=True)
class Section:
    """A comparison with the command that makes it and what that costs."""

    comparison: Comparison
    command: str
    cost: str = ""
    # path of the figure, relative to the README that shows it
    figure: str | None = None


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
    """Return the comparison of our results with a table of the paper.

    num_seeds: with how many seeds each row is made.
    omitted_rows: the rows that this scale does not make.
    counted_values: by column, then row, what needs no training (FLOPs).
    Raise ConfigError for results that the paper's table has no place for.
    """
    samples = _group_by_column(sort_rows(results, paper))
    expected_cells = [
        (row.row, name)
        for row in paper.rows
        if row.row not in omitted_rows
        for name in paper.column_stages(row)
    ]
    expected = len(expected_cells) * num_seeds
    # Seeds beyond those of the scale are shown but do not count as progress.
    done = sum(
        min(num_seeds, len(samples[name][row].values))
        for row, name in expected_cells
        if row in samples.get(name, {})
    )
    claims = [
        judge(claim, _column_samples(paper, claim.column, samples, omitted_rows))
        for claim in paper.claims
    ]
    rows = [_table_row(paper, row, samples, counted_values or {}) for row in paper.rows]
    expected_columns = {name for _, name in expected_cells}
    return Comparison(
        paper=paper,
        slug=slug,
        scale=scale,
        rows=rows,
        done=done,
        expected=expected,
        claims=claims,
        correlations={
            name: _correlate(rows, name)
            for name in paper.columns
            if name in expected_columns
        },
        protocol_differences=protocol_differences,
        headline=_headline(claims, scale, done, expected, protocol_differences),
    )


def _group_by_column(rows: list[ResultRow]) -> Samples:
    samples: Samples = {}
    for row in rows:
        column = samples.setdefault(row.column, {})
        earlier = column.get(row.row, Sample((), row.images))
        column[row.row] = Sample((*earlier.values, row.value), row.images)
    return samples


def _is_trained(paper: Paper, column: str) -> bool:
    return any(column in paper.column_stages(row) for row in paper.rows)


def _column_samples(
    paper: Paper, name: str, samples: Samples, omitted_rows: Collection[str]
) -> ColumnSamples:
    # The best row need not beat a row that this scale omits, but a claim that names
    # such a row cannot be decided.
    competing_rows = [
        row.row
        for row in paper.rows
        if name in paper.column_stages(row) and row.row not in omitted_rows
    ]
    column = paper.columns[name]
    return ColumnSamples(
        samples=samples.get(name, {}),
        competing_rows=competing_rows,
        unit=column.unit,
        is_accuracy="accuracy" in column.metric,
        omitted_rows=omitted_rows,
    )


def _table_row(
    paper: Paper,
    row: PaperRow,
    samples: Samples,
    counted_values: Mapping[str, Mapping[str, float]],
) -> TableRow:
    default = None
    if paper.default is not None and paper.default != row.row:
        default = paper.row(paper.default)
    cells = {}
    for name, column in paper.columns.items():
        by_row = samples.get(name, {})
        sample = by_row.get(row.row)
        mean = sample.mean if sample else counted_values.get(name, {}).get(row.row)
        std = None
        if sample and len(sample.values) > 1:
            std = statistics.stdev(sample.values)
        paper_value = row.values.get(name)
        # The paper's hours and our seconds are of other machines.
        is_comparable = column.metric != "seconds"
        paper_default = default.values.get(name) if default else None
        our_default = by_row.get(default.row) if default else None
        cells[name] = TableCell(
            paper=paper_value,
            mean=mean,
            std=std,
            num_seeds=len(sample.values) if sample else 0,
            minus_paper=_subtract(mean, paper_value) if is_comparable else None,
            paper_minus_default=_subtract(paper_value, paper_default),
            minus_default=_subtract(mean, our_default.mean if our_default else None),
        )
    return TableRow(row.row, row.row == paper.default, cells)


def _subtract(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _correlate(rows: list[TableRow], column: str) -> Correlation:
    cells = [row.cells[column] for row in rows]
    pairs = [
        (cell.paper, cell.mean)
        for cell in cells
        if cell.paper is not None and cell.mean is not None
    ]
    return Correlation(rank_correlation(pairs), len(pairs))


def _headline(
    claims: list[JudgedClaim],
    scale: str,
    done: int,
    expected: int,
    protocol_differences: list[str],
) -> str:
    """Say in one sentence how much is done, how alike it is, and the verdicts."""
    noun = "claim" if len(claims) == 1 else "claims"
    if not done:
        return (
            f"Nothing is measured at scale {scale} yet; the paper makes"
            f" {len(claims) or 'no'} {noun} here."
        )
    start = f"At scale {scale}"
    if done < expected:
        start += f", {done} of {expected} results so far"

    count = len(protocol_differences)
    if count == 0:
        likeness = "like for like"
    elif count == 1:
        likeness = "with one difference from the paper's protocol"
    else:
        likeness = f"with {count} differences from the paper's protocol"
    if not claims:
        return f"{start}, {likeness}: the paper makes no claim here."

    verdicts = Counter(judged.verdict for judged in claims)
    hold = verdicts["holds"]
    fail = verdicts["does not hold"]
    return (
        f"{start}, {likeness}: of the paper's {len(claims)} {noun}"
        f" {hold} {'holds' if hold == 1 else 'hold'},"
        f" {fail} {'does' if fail == 1 else 'do'} not,"
        f" {verdicts['cannot tell']} cannot be decided."
    )
