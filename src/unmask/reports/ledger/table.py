"""The table of runs on a page: a row a stage, and what it can be filtered by."""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from unmask.commands.runs.output import format_bytes, format_seconds
from unmask.stages.records import RunRecord


class Column(NamedTuple):
    """A column's head; number: whether its cells stand on the right."""

    title: str
    number: bool = False


@dataclass(frozen=True)
class Cell:
    """A cell: its text, its CSS class, what it is sorted by, and where it leads."""

    text: str
    kind: str = ""
    order: float | str | None = None
    link: str | None = None


COLUMNS = (
    Column("run"),
    Column("stage"),
    Column("state"),
    Column("result", True),
    Column("unit"),
    Column("begun"),
    Column("time", True),
    Column("size", True),
    Column("fingerprint"),
)
# the table has a column of boxes before these
BEGUN_COLUMN = 1 + [column.title for column in COLUMNS].index("begun")


def row(
    record: RunRecord, name: str, has_curve: bool, page: str | None
) -> dict[str, Any]:
    """Return a row of the template.

    name: what the page calls the stage. page: where the run's page is, relative to
    this one.
    """
    measure = record.measure
    begun = record.started
    seconds = record.seconds
    cells = (
        Cell(name, "title", link=page),
        Cell(record.title),
        Cell(record.state, record.state),
        Cell(measure.text, "n", measure.value) if measure else Cell("", "n", -math.inf),
        Cell(measure.unit if measure else ""),
        Cell(format_time(begun), order=begun.timestamp())
        if begun
        else Cell("", order=0),
        Cell("" if seconds is None else format_seconds(seconds), "n", seconds or 0),
        Cell(format_bytes(record.bytes), "n", record.bytes),
        Cell(record.fingerprint),
    )
    return {
        "id": record.key,
        "title": name,
        "curve": has_curve,
        "cells": cells,
    }


def format_time(time: datetime | str) -> str:
    """Return a time, or one as the ledger writes it, in this machine's time zone."""
    known = datetime.fromisoformat(time) if isinstance(time, str) else time
    return f"{known.astimezone():%Y-%m-%d %H:%M}"


def filters(records: Collection[RunRecord]) -> list[dict[str, Any]]:
    """Return the choices of each column that has a filter."""
    values: dict[str, Iterable[str]] = {
        "stage": dict.fromkeys(record.title for record in records),
        "state": dict.fromkeys(record.state for record in records),
    }
    titles = [column.title for column in COLUMNS]
    return [
        {"title": title, "column": 1 + titles.index(title), "choices": choices}
        for title, choices in values.items()
    ]
