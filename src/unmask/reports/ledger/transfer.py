"""Encoders side by side on several sets of images, as the page of all runs shows."""

from collections.abc import Collection
from typing import Any

from unmask.commands.runs.filters import record_value
from unmask.commands.runs.listing import how_measured, spread_text
from unmask.config.dials import format_value
from unmask.stages.encoders import CONTROLS, is_of_side
from unmask.stages.records import RunRecord

# a set, how it was measured, and what of the recipe is not the default
Head = tuple[str, str, str]


def transfer_table(records: Collection[RunRecord]) -> dict[str, Any] | None:
    """Return heads and rows; None where no pretrained encoder is measured on two sets.

    A row is an encoder, a column a measurement on a set; a cell has the mean over seeds
    with its spread, and how many there are. Other recipes are other columns.
    """
    cells: dict[tuple[str, Head], list[RunRecord]] = {}
    for record in records:
        if record.encoder and record.measure:
            cells.setdefault((_row(record), _head(record)), []).append(record)
    sets: dict[str, set[str]] = {}
    for row, head in cells:
        sets.setdefault(row, set()).add(head[0])
    if not any(len(sets[row]) > 1 for row in sets if not _is_control(row)):
        return None
    heads = sorted({head for _, head in cells})
    rows = sorted(dict.fromkeys(row for row, _ in cells), key=_is_control)
    return {
        "heads": heads,
        "rows": [
            (row, [_text(cells.get((row, head))) for head in heads]) for row in rows
        ],
    }


def _row(record: RunRecord) -> str:
    """Return the encoder; random weights with the model that has them."""
    model = record_value(record, "model") if record.start == "random" else None
    return f"{record.encoder}, {model}" if model else str(record.encoder)


def _head(record: RunRecord) -> Head:
    words = [
        f"{key}={format_value(value)}"
        for key, value in record.dials.items()
        if not is_of_side(key)
    ]
    measure = record.measure
    unit = measure.unit if measure else ""
    images = str(record_value(record, "set"))
    return images, f"{how_measured(record)}, {unit}", " ".join(words)


def _is_control(row: str) -> bool:
    return row.startswith(tuple(CONTROLS.values()))


def _text(records: list[RunRecord] | None) -> str:
    measures = [record.measure for record in records or () if record.measure]
    if not measures:
        return ""
    count = f" (n={len(measures)})" if len(measures) > 1 else ""
    return f"{spread_text(measures)}{count}"
