"""Tables in plain text, which read well on a terminal and in a pipe; JSON and CSV."""

import csv
import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

# of a pipe: lines are not folded there
WIDE = 10_000
# between columns
GAP = "  "
# of a column that folds, however narrow the terminal is
MIN_WIDTH = 12
NO_VALUE = "-"
MINUTE, HOUR, DAY = 60, 3600, 86400


class Column(NamedTuple):
    """A column: its title, the key of its value, whether it folds where it is long."""

    title: str
    key: str
    folds: bool = False
    is_number: bool = False


def print_rows(
    columns: Sequence[Column],
    rows: Sequence[dict[str, Any]],
    form: str,
    texts: Sequence[dict[str, str]],
) -> None:
    """Print rows as a table of their texts, or their values as JSON or CSV."""
    if form == "json":
        print(json.dumps(list(rows), indent=2))
        return
    if form == "csv":
        keys = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(keys)
        writer.writerows([[_cell(row.get(key)) for key in keys] for row in rows])
        return
    print_table(columns, texts)


def _cell(value: Any) -> Any:
    """Return a value as one cell of a CSV file."""
    return json.dumps(value) if isinstance(value, dict | list | tuple) else value


def print_table(columns: Sequence[Column], texts: Sequence[dict[str, str]]) -> None:
    """Print a table without lines and colours; long texts fold on a terminal.

    A pipe has no width. (rich takes seconds for a thousand rows.)
    """
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDE
    rows = [[row.get(column.key, NO_VALUE) for column in columns] for row in texts]
    if any(column.title for column in columns):
        rows.insert(0, [column.title for column in columns])
    widths = _widths(columns, rows, width)
    for row in rows:
        cells = [_fold(cell, size) for cell, size in zip(row, widths, strict=True)]
        for lines in zip_longest(*cells, fillvalue=""):
            words = [
                f"{line:>{size}}" if column.is_number else f"{line:<{size}}"
                for line, size, column in zip(lines, widths, columns, strict=True)
            ]
            print(GAP.join(words).rstrip())


def _widths(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int
) -> list[int]:
    """Return the characters of each column; those that fold share what is left."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    folding = [i for i, column in enumerate(columns) if column.folds]
    left = width - len(GAP) * (len(columns) - 1)
    left -= sum(size for i, size in enumerate(widths) if i not in folding)
    # the narrowest first: what it does not need is the others'
    for position, i in enumerate(sorted(folding, key=lambda i: widths[i])):
        share = max(MIN_WIDTH, left // (len(folding) - position))
        widths[i] = min(widths[i], share)
        left -= widths[i]
    return widths


def _fold(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width) if len(text) > width else [text]


def print_line(text: str) -> None:
    """Print a line as it is, however long."""
    print(text, flush=True)


def format_bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}" if size < 100 else f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"


def format_seconds(seconds: float | None) -> str:
    """Return a time in the unit that reads best; from two of a unit on."""
    if seconds is None:
        return NO_VALUE
    for size, unit in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "< 1 s"
