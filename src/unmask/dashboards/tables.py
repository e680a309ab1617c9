"""The tables that a stage leaves beside its metrics, as W&B shows them."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# W&B draws a confusion matrix from one row for each of its cells
MAX_CLASSES = 100


def stage_tables(folder: Path, prefix: str) -> dict[str, Any]:
    """Return tables and charts of W&B by their keys, of the files that are there."""
    tables = {}
    for key, name in (("classes", "classes.csv"), ("table", "robustness.csv")):
        if rows := _read(folder / name):
            tables[f"{prefix}/{key}"] = _table(rows[0], rows[1:])
    rows = _read(folder / "confusion.csv")
    if rows and len(rows) - 1 <= MAX_CLASSES:
        tables[f"{prefix}/confusion_matrix"] = _confusion_matrix(rows)
    return tables


def _read(path: Path) -> list[list[str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.reader(file))


def _table(columns: list[str], rows: list[list[str]]) -> Any:
    import wandb

    return wandb.Table(columns, [list(map(_value, row)) for row in rows])


def _value(text: str) -> str | float | None:
    """Return a cell's number, or its word; None for an empty one."""
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        return text


def _confusion_matrix(rows: list[list[str]]) -> Any:
    """Return W&B's own chart; rows: a line for each true class, below the names."""
    import wandb

    columns = ["Actual", "Predicted", "nPredictions"]
    table = wandb.Table(columns, list(_cells(rows)))
    return wandb.plot_table(
        vega_spec_name="wandb/confusion_matrix/v1",
        data_table=table,
        fields={column: column for column in columns},
        string_fields={"title": "confusion matrix"},
    )


def _cells(rows: list[list[str]]) -> Iterator[list[Any]]:
    (_, *predicted), *counts = rows
    for true, *numbers in counts:
        for name, number in zip(predicted, numbers, strict=True):
            yield [true, name, int(number)]
