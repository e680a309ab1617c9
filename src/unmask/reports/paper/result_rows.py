"""The rows of experiments/<slug>/results/<scale>.csv: a measurement each, in an order that their content decides."""

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from unmask.config.checks import ConfigError
from unmask.config.experiments import EXPERIMENTS, Paper, read_paper
from unmask.stages.fingerprint import StageSpec
from unmask.stages.plan import Plan
from unmask.storage.atomic import write_text


class ResultRow(NamedTuple):
    """A measured value, the fingerprint of its stage, and that of the pretraining it came from (may be empty)."""

    row: str
    column: str
    seed: int
    value: float
    images: int
    fingerprint: str
    pretrain: str


def ordered(rows: list[ResultRow], paper: Paper) -> list[ResultRow]:
    """The paper's order of rows and columns, then seeds; what is the same twice stands once.

    Raises ConfigError for a row or column that the paper's table lacks, and for two values of one measurement.
    """
    labels, columns = [row.row for row in paper.rows], list(paper.columns)
    for row in rows:
        if row.row not in labels or row.column not in columns:
            raise ConfigError(
                f"results have row {row.row!r}, column {row.column!r}; {paper.paper}"
                f" has rows {labels} and columns {columns}: correct the results or"
                " paper.yaml"
            )
        accuracy = "accuracy" in paper.columns[row.column].metric
        if (
            row.images < 1
            or row.seed < 0
            or not math.isfinite(row.value)
            or (accuracy and not 0 <= row.value <= 100)
        ):
            raise ConfigError(
                f"results of {paper.paper} have {row}: images are at least 1, seeds at"
                " least 0, values finite and accuracies within 0 to 100; correct or"
                " remove that line"
            )
    kept: dict[tuple[int, int, int], ResultRow] = {}
    for row in sorted(set(rows)):
        place = labels.index(row.row), columns.index(row.column), row.seed
        before = kept.setdefault(place, row)
        if before != row:
            raise ConfigError(
                f"two results for row {row.row!r}, column {row.column!r}, seed"
                f" {row.seed}: {before.value} ({before.fingerprint}) and {row.value}"
                f" ({row.fingerprint}); keep one of them"
            )
    return [kept[place] for place in sorted(kept)]


def rows_text(rows: list[ResultRow], paper: Paper) -> str:
    """CSV whose bytes are the same for the same rows in any order; floats as Python repeats them."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(ResultRow._fields)
    for row in ordered(rows, paper):
        values = row._asdict() | {"value": repr(float(row.value))}
        writer.writerow(values.values())
    return buffer.getvalue()


def write_rows(path: Path, rows: list[ResultRow], paper: Paper) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, rows_text(rows, paper))


def read_rows(path: Path) -> list[ResultRow]:
    """No rows where there is no file. Raises ConfigError for a file with other columns or without numbers."""
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            header, *lines = list(csv.reader(file)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            f"{path} is no CSV file ({error}); restore or remove it"
        ) from None
    if header != list(ResultRow._fields):
        raise ConfigError(
            f"{path}: columns are {header}; they must be {list(ResultRow._fields)}"
        )
    try:
        return [
            ResultRow(r, c, int(s), float(v), int(i), f, p)
            for r, c, s, v, i, f, p in lines
        ]
    except ValueError as error:
        raise ConfigError(
            f"{path} is damaged ({error}); restore or remove it: the ledger still has"
            " its own"
        ) from None


MEASURED_FROM = ("pretrained", "given", "random")
Kept = dict[tuple[str, str], ResultRow]  # by metric and fingerprint


def measured(plan: Plan, stage: str) -> StageSpec | None:
    """The stage of the plan that a column asks for: the one on trained weights, not its controls."""
    return next(
        (s for s in plan.stages if s.kind == stage and s.start in MEASURED_FROM), None
    )


def all_kept() -> Kept:
    """Of experiments/*/results/*.csv. Raises ConfigError for a damaged file, or two values of one measurement."""
    found: Kept = {}
    for path in sorted(EXPERIMENTS.glob("*/results/*.csv")):
        paper = read_paper(path.parents[1].name)
        for row in ordered(read_rows(path), paper):
            before = found.setdefault(
                (paper.columns[row.column].metric, row.fingerprint), row
            )
            if before.value != row.value:
                raise ConfigError(
                    f"{path}: row {row.row!r}, {row.column}, seed {row.seed} is"
                    f" {row.value}, but {before.value} in another table, for the same"
                    f" stage {row.fingerprint}; correct one of them"
                )
    return found


def asked(plan: Plan, paper: Paper, row: str) -> Iterator[tuple[str, StageSpec]]:
    """Each column of ours in the table's row, with the stage of the plan that fills it."""
    for column, stage in paper.stages_of(paper.row(row)).items():
        spec = measured(plan, stage)
        if spec is not None:
            yield column, spec


def is_kept(plan: Plan, table: str, row: str, known: Kept) -> bool:
    """Whether all that this plan measures for the table's row is known."""
    paper = read_paper(table)
    wanted = [
        (paper.columns[column].metric, spec.fingerprint)
        for column, spec in asked(plan, paper, row)
    ]
    return bool(wanted) and all(key in known for key in wanted)
