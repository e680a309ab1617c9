"""What the page of a sweep shows: its measures over each swept key, and its cells."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.config.overrides import is_number
from unmask.stages.records import Ledger, RunRecord, pictures_by_epoch
from unmask.stages.sweeps import Sweep, SweepCell

# of a paper's table, each of whose cells sets several keys
ROW = "row"
# pictures of more cells would make a page of many megabytes
MAX_SHEETS = 24


@dataclass(frozen=True)
class SweptCell:
    """A cell with what it sets otherwise than others, and its stages in the ledger.

    values: by key, as typed; "row": of a paper's table. seed: None where all cells have
    the same one.
    """

    cell: SweepCell
    values: dict[str, str]
    seed: str | None
    records: tuple[RunRecord, ...]

    @property
    def title(self) -> str:
        seed = [] if self.seed is None else [f"seed={self.seed}"]
        return " ".join([*map("=".join, self.values.items()), *seed]) or "one cell"


def swept_cells(sweep: Sweep, ledger: Ledger) -> list[SweptCell]:
    """Return the cells; the stages that none has begun yet are left out."""
    typed = [_typed(cell) for cell in sweep.cells]
    keys = dict.fromkeys(key for values in typed for key in values)
    varied = [key for key in keys if len({v.get(key) for v in typed}) > 1]
    cells = []
    for cell, values in zip(sweep.cells, typed, strict=True):
        own = {key: values[key] for key in varied if key in values and key != "seed"}
        names = (*cell.weights, *cell.stages)
        records = tuple(ledger.by_key[name] for name in names if name in ledger.by_key)
        seed = values.get("seed") if "seed" in varied else None
        cells.append(SweptCell(cell, own, seed, records))
    return cells


def _typed(cell: SweepCell) -> dict[str, str]:
    """Return the value of each override; rows of a table stand for what they set."""
    pairs = (override.partition("=") for override in cell.overrides)
    # an override such as ~key has no value
    values = {key: value for key, is_value, value in pairs if is_value}
    if not cell.tables:
        return values
    table, row = cell.tables[0]
    kept = {key: values[key] for key in ("seed",) if key in values}
    return {"table": table, ROW: row} | kept


def dials(cells: Sequence[SweptCell]) -> list[str]:
    """Return the keys that can be the x axis: the swept ones, or the seed alone."""
    keys = list(dict.fromkeys(key for cell in cells for key in cell.values))
    return keys or ["seed"]


def points(cells: Sequence[SweptCell]) -> list[dict[str, Any]]:
    """Return a point for each result of a cell and each dial, as dials.vl.json reads.

    rank: where its value stands on the axis; others: the other dials' values.
    """
    return [point for dial in dials(cells) for point in _points(cells, dial)]


def _points(cells: Sequence[SweptCell], dial: str) -> Iterator[dict[str, Any]]:
    order = axis_order([_value(cell, dial) for cell in cells])
    for cell in cells:
        others = [f"{key}={text}" for key, text in cell.values.items() if key != dial]
        for record in cell.records:
            if not record.measure:
                continue
            x = _value(cell, dial)
            yield {
                "title": f"{record.title}, {cell.title}",
                "measure": f"{record.title}, {record.measure.unit}",
                "dial": dial,
                "x": x,
                "rank": order.index(x),
                "others": " ".join(others) or "all seeds",
                "value": record.measure.value,
            }


def _value(cell: SweptCell, dial: str) -> str:
    text = cell.seed if dial == "seed" else cell.values.get(dial)
    return "default" if text is None else text


def axis_order(values: Sequence[str]) -> list[str]:
    """Return each value once: numbers by size, words as they came."""
    once = list(dict.fromkeys(values))
    return sorted(once, key=float) if all(map(is_number, once)) else once


def stage_names(cells: Sequence[SweptCell]) -> dict[str, str]:
    """Return what the page calls each stage, by its key.

    Its kind and what is swept, as "kNN mask_ratio=0.5 seed=1": all else is the same in
    all cells. A stage of several cells has what these share, and where they share
    nothing, its name in the ledger.
    """
    shared: dict[str, dict[str, str]] = {}
    records = {record.key: record for cell in cells for record in cell.records}
    for cell in cells:
        seed = {} if cell.seed is None else {"seed": cell.seed}
        own = cell.values | seed
        for record in cell.records:
            known = shared.get(record.key, own)
            shared[record.key] = dict(known.items() & own.items())
    return {
        key: " ".join([records[key].title, *_in_order(values, cells)])
        if values
        else records[key].name
        for key, values in shared.items()
    }


def _in_order(values: dict[str, str], cells: Sequence[SweptCell]) -> list[str]:
    """Return "key=value" in the order in which the keys were typed, the seed last."""
    keys = dict.fromkeys([*(key for cell in cells for key in cell.values), "seed"])
    return [f"{key}={values[key]}" for key in keys if key in values]


def sheets(cells: Sequence[SweptCell]) -> list[tuple[str, Path]]:
    """Return the last picture of each pretraining, with the titles of its cells."""
    pictures: dict[Path, str] = {}
    for cell in cells:
        for record in cell.records:
            for path in list(pictures_by_epoch(record.folder).values())[-1:]:
                pictures.setdefault(path, cell.title)
    return [(title, path) for path, title in pictures.items()][:MAX_SHEETS]


def to_csv(cells: Sequence[SweptCell]) -> str:
    """Return a row for each stage of each cell, with all its metrics."""
    keys = list(dict.fromkeys(key for cell in cells for key in cell.values))
    rows = [
        {
            **cell.values,
            "seed": cell.seed or record.seed,
            "stage": record.title,
            "state": record.state,
            "seconds": record.seconds,
            "fingerprint": record.fingerprint,
            **record.metrics,
        }
        for cell in cells
        for record in cell.records
    ]
    facts = ("seed", "stage", "state", "seconds", "fingerprint")
    metrics = sorted({key for row in rows for key in row} - {*keys, *facts})
    text = io.StringIO()
    writer = csv.DictWriter(text, [*keys, *facts, *metrics], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
