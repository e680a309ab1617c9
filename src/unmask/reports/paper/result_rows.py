"""The rows of experiments/<slug>/results/<scale>.csv: one measured value each.

Their order follows from their content, so that the same results are the same bytes.
"""

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from unmask.config.checks import ConfigError
from unmask.config.experiments import kept_files, read_paper
from unmask.config.paper_facts import Paper
from unmask.stages.fingerprint import StageSpec
from unmask.stages.plan import Plan
from unmask.storage.atomic import write_text

# Training from scratch starts at "random". So does the control of a probe, but it comes
# after the probe itself in the plan.
TRAINED_STARTS = ("pretrained", "given", "random")


class ResultRow(NamedTuple):
    """A measured value with its place in the table and its fingerprints.

    The fields are the columns of the CSV file.
    """

    row: str
    column: str
    seed: int
    value: float
    # how many images it was measured on
    images: int
    # of the stage that measured it
    fingerprint: str
    # fingerprint of the pretraining that it started from; may be empty
    pretrain: str


# by metric and fingerprint
KeptResults = dict[tuple[str, str], ResultRow]


def sort_rows(rows: list[ResultRow], paper: Paper) -> list[ResultRow]:
    """Return the rows in the paper's order, then by seed, each once.

    Raise ConfigError for a row or column that the paper's table lacks, for a value that
    cannot be, and for two values of one measurement.
    """
    labels = [row.row for row in paper.rows]
    columns = list(paper.columns)
    by_position: dict[tuple[int, int, int], ResultRow] = {}
    for row in sorted(set(rows)):
        if row.row not in labels or row.column not in columns:
            raise ConfigError(
                f"results have row {row.row!r}, column {row.column!r}; {paper.label}"
                f" has rows {labels} and columns {columns}: correct the results or the"
                " table's rows"
            )
        is_accuracy = "accuracy" in paper.columns[row.column].metric
        is_valid = row.images >= 1 and row.seed >= 0 and math.isfinite(row.value)
        if not is_valid or (is_accuracy and not 0 <= row.value <= 100):
            raise ConfigError(
                f"results of {paper.label} have {row}: images must be at least 1, seed"
                " at least 0, value finite and an accuracy within 0 to 100; correct or"
                " remove that line"
            )
        position = labels.index(row.row), columns.index(row.column), row.seed
        first = by_position.setdefault(position, row)
        if first != row:
            raise ConfigError(
                f"two results for row {row.row!r}, column {row.column!r}, seed"
                f" {row.seed}: {first.value} ({first.fingerprint}) and {row.value}"
                f" ({row.fingerprint}); keep one of them"
            )
    return [by_position[position] for position in sorted(by_position)]


def rows_to_csv(rows: list[ResultRow], paper: Paper) -> str:
    """Return the CSV text: the same bytes for the same rows in any order."""
    buffer = io.StringIO()
    # It writes the shortest text of a float that reads back as the same.
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([ResultRow._fields, *sort_rows(rows, paper)])
    return buffer.getvalue()


def write_rows(path: Path, rows: list[ResultRow], paper: Paper) -> None:
    """Write the rows as CSV, in the paper's order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, rows_to_csv(rows, paper))


def read_rows(path: Path) -> list[ResultRow]:
    """Read a file of `write_rows`; return no rows where there is no file.

    Raise ConfigError for a file with other columns or without numbers.
    """
    if not path.exists():
        return []
    fields = list(ResultRow._fields)
    try:
        with path.open(newline="") as file:
            header, *lines = csv.reader(file)
        if header != fields:
            raise ValueError(f"columns are {header}; they must be {fields}")
        return [
            ResultRow(
                row, column, int(seed), float(value), int(images), fingerprint, pretrain
            )
            for row, column, seed, value, images, fingerprint, pretrain in lines
        ]
    except (ValueError, csv.Error) as error:
        raise ConfigError(
            f"{path} is damaged ({error}); restore or remove it: the ledger still has"
            " its results"
        ) from None


def read_kept_results() -> KeptResults:
    """Read every experiments/*/results/*.csv, also those of the user's questions.

    Raise ConfigError for a damaged file, or two values of one measurement.
    """
    kept: KeptResults = {}
    for path in kept_files():
        paper = read_paper(path.parents[1].name)
        for row in sort_rows(read_rows(path), paper):
            # Tables share stages: the default row stands in many of them.
            key = paper.columns[row.column].metric, row.fingerprint
            first = kept.setdefault(key, row)
            if first.value != row.value:
                raise ConfigError(
                    f"{path}: row {row.row!r}, {row.column}, seed {row.seed} is"
                    f" {row.value}, but {first.value} in another table, for the same"
                    f" stage {row.fingerprint}; correct one of them"
                )
    return kept


def planned_column_stages(
    plan: Plan, paper: Paper, row: str
) -> Iterator[tuple[str, StageSpec]]:
    """Yield each column that the plan fills in the table's row, with its stage."""
    for column, kind in paper.column_stages(paper.row(row)).items():
        spec = measured_stage(plan, kind)
        if spec is not None:
            yield column, spec


def measured_stage(plan: Plan, kind: str) -> StageSpec | None:
    """Return the plan's stage of that kind on trained weights, not its controls."""
    specs = (s for s in plan.stages if s.kind == kind and s.start in TRAINED_STARTS)
    return next(specs, None)


def has_kept_results(plan: Plan, table: str, row: str, kept: KeptResults) -> bool:
    """Return whether all that the plan measures for the table's row is kept."""
    paper = read_paper(table)
    keys = [
        (paper.columns[column].metric, spec.fingerprint)
        for column, spec in planned_column_stages(plan, paper, row)
    ]
    return bool(keys) and all(key in kept for key in keys)
