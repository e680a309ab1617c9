"""A table of the paper beside ours at one scale, in plain values: numbers, progress, verdicts, one headline."""

import statistics
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from unmask.config.experiments import Paper, PaperRow
from unmask.reports.paper.bootstrap import Sample, rank_correlation
from unmask.reports.paper.claims import Judged, Measured, judge
from unmask.reports.paper.result_rows import ResultRow, ordered


@dataclass(frozen=True)
class Cell:
    """One number of the paper and ours; None where there is none. Differences are ours - paper, row - default."""

    paper: float | None = None
    mean: float | None = None
    spread: float | None = None  # sample standard deviation over seeds
    n: int = 0
    to_paper: float | None = None
    paper_to_default: float | None = None
    to_default: float | None = None


@dataclass(frozen=True)
class Row:
    label: str
    is_default: bool
    cells: dict[str, Cell]


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of our row means with the paper's; None under three rows or where all are equal."""

    rho: float | None
    n: int


@dataclass(frozen=True)
class Comparison:
    """One experiment at one scale."""

    paper: Paper
    slug: str
    scale: str
    rows: list[Row]
    done: int
    expected: int
    claims: list[Judged]
    correlations: dict[str, Correlation]
    differences: list[str]  # from the paper's protocol; none: like for like
    headline: str

    @property
    def measured(self) -> list[str]:
        """The columns that we fill by training."""
        return [name for name in self.paper.columns if _ours(self.paper, name)]

    @property
    def filled(self) -> list[str]:
        """The columns that we fill, those that need no training included."""
        return [
            name
            for name, column in self.paper.columns.items()
            if column.counted or _ours(self.paper, name)
        ]

    @property
    def counts(self) -> Counter[str]:
        """How many claims have each verdict."""
        return Counter(judged.verdict for judged in self.claims)


@dataclass(frozen=True)
class Section:
    """A comparison with the command that makes it and what that costs."""

    content: Comparison
    command: str
    cost: str = ""
    figure: str | None = None  # where a README finds it


def compare(
    paper: Paper,
    slug: str,
    scale: str,
    results: list[ResultRow],
    seeds: int,
    differences: list[str],
    left_out: Collection[str] = (),
    counted: Mapping[str, Mapping[str, float]] | None = None,
) -> Comparison:
    """`seeds`: how many each row is made with; `left_out`: rows that this scale does not make; `counted`: column, then
    row: what needed no training.

    Raises ConfigError for results that the paper's table has no place for.
    """
    found = samples(ordered(results, paper))
    made = [
        (row.row, name)
        for row in paper.rows
        if row.row not in left_out
        for name in paper.stages_of(row)
    ]
    done = sum(
        min(seeds, len(found[name][row].values))
        for row, name in made
        if row in found.get(name, {})
    )
    judged = [
        judge(claim, _measured(paper, claim.column, found, left_out))
        for claim in paper.claims
    ]
    rows = [_row(paper, row, found, counted or {}) for row in paper.rows]
    ours = {name for _, name in made}
    return Comparison(
        paper,
        slug,
        scale,
        rows,
        done,
        len(made) * seeds,
        judged,
        {name: _correlation(rows, name) for name in paper.columns if name in ours},
        differences,
        _headline(judged, scale, done, len(made) * seeds, differences),
    )


def samples(rows: list[ResultRow]) -> dict[str, dict[str, Sample]]:
    """Column, then row: the seeds' values in order."""
    found: dict[str, dict[str, Sample]] = {}
    for row in rows:
        column = found.setdefault(row.column, {})
        before = column.get(row.row, Sample((), row.images))
        column[row.row] = Sample((*before.values, row.value), row.images)
    return found


def _ours(paper: Paper, name: str) -> bool:
    return any(name in paper.stages_of(row) for row in paper.rows)


def _measured(
    paper: Paper,
    name: str,
    found: dict[str, dict[str, Sample]],
    left_out: Collection[str],
) -> Measured:
    """A row that the scale leaves out is no rival of the best, but a claim that names it cannot be told."""
    rivals = [
        row.row
        for row in paper.rows
        if name in paper.stages_of(row) and row.row not in left_out
    ]
    column = paper.columns[name]
    return Measured(
        found.get(name, {}), rivals, column.unit, "accuracy" in column.metric, left_out
    )


def _row(
    paper: Paper,
    row: PaperRow,
    found: dict[str, dict[str, Sample]],
    counted: Mapping[str, Mapping[str, float]],
) -> Row:
    default = (
        paper.row(paper.default)
        if paper.default is not None and paper.default != row.row
        else None
    )
    cells = {}
    for name, column in paper.columns.items():
        sample, theirs = found.get(name, {}).get(row.row), row.values.get(name)
        mean = sample.mean if sample else counted.get(name, {}).get(row.row)
        base = found.get(name, {}).get(default.row) if default else None
        cells[name] = Cell(
            theirs,
            mean,
            (
                statistics.stdev(sample.values)
                if sample and len(sample.values) > 1
                else None
            ),
            len(sample.values) if sample else 0,
            # other machines, other units
            less(mean, theirs if column.metric != "seconds" else None),
            less(theirs, default.values.get(name) if default else None),
            less(mean, base.mean if base else None),
        )
    return Row(row.row, row.row == paper.default, cells)


def less(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _correlation(rows: list[Row], name: str) -> Correlation:
    pairs = [(cell.paper, cell.mean) for cell in (row.cells[name] for row in rows)]
    both = [
        (theirs, ours)
        for theirs, ours in pairs
        if theirs is not None and ours is not None
    ]
    return Correlation(rank_correlation(both), len(both))


def _headline(
    judged: list[Judged], scale: str, done: int, expected: int, differences: list[str]
) -> str:
    count = Counter(one.verdict for one in judged)
    many = f"claim{'s' if len(judged) != 1 else ''}"
    if not done:
        return (
            f"Nothing is measured at scale {scale} yet; the paper makes"
            f" {len(judged) or 'no'} {many} here."
        )
    start = (
        f"At scale {scale}"
        if done >= expected
        else f"At scale {scale}, {done} of {expected} results so far"
    )
    how = (
        f"{len(differences)} differences" if len(differences) > 1 else "one difference"
    )
    like = f"with {how} from the paper's protocol" if differences else "like for like"
    if not judged:
        return f"{start}, {like}: the paper makes no claim here."
    return (
        f"{start}, {like}: of the paper's {len(judged)} {many} {count['holds']}"
        f" hold{'s' * (count['holds'] == 1)}, {count['does not hold']}"
        f" {'does' if count['does not hold'] == 1 else 'do'} not,"
        f" {count['cannot tell']} cannot be told."
    )
