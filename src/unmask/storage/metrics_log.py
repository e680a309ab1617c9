"""JSON lines files, above all metrics.jsonl: one row for each log, append-only.

metrics.jsonl is the source of truth for tables, curves, pages and dashboards.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from unmask.storage.atomic import write_text
from unmask.storage.remedies import explain

# metrics of the machine, not of the training: they differ in any two runs
MACHINE_KEYS = (
    *("images_per_second", "mfu", "mfu_measured"),
    *("peak_memory_gib", "peak_host_memory_gib"),
)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return all rows, or none where there is no file.

    A line that a kill or a full disk has cut is skipped.
    """
    return _parse(path.read_text(errors="replace")) if path.exists() else []


def read_rows_from(path: Path, start: int) -> tuple[list[dict[str, Any]], int]:
    """Return the complete rows from byte `start` on, and the byte where they end."""
    with path.open("rb") as file:
        file.seek(start)
        text = file.read()
    # another process may be writing the last line
    end = text.rfind(b"\n") + 1
    return _parse(text[:end].decode(errors="replace")), start + end


def _parse(text: str) -> list[dict[str, Any]]:
    rows = []
    for line in text.splitlines():
        with suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def encode_row(row: dict[str, Any]) -> str:
    """Return the row as a line of the file."""
    return json.dumps(row) + "\n"


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add a row at the end.

    Raises OSError, with what to do, where it cannot be written.
    """
    try:
        with path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                # after a line that a kill has cut: else both lines would be lost
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(encode_row(row).encode())
    except OSError as error:
        raise OSError(
            f"cannot write {path}: {explain(error)}; then type the same command"
            " again: it goes on from the last checkpoint that is there"
        ) from error


def flush_to_disk(path: Path) -> None:
    """Wait until the rows so far are on the disk, where a power cut spares them."""
    if path.exists():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def restore_rows(path: Path, earlier: str) -> int:
    """Put back rows that the file has lost; return how many.

    earlier: the file's text at a checkpoint. Rows that were written later stay.
    """
    # a dict keeps the order
    lines = dict.fromkeys(earlier.splitlines(keepends=True))
    present = dict.fromkeys(map(encode_row, read_rows(path)))
    missing = lines.keys() - present.keys()
    if missing:
        write_text(path, "".join(lines | present))
    return len(missing)


def truncate_after(path: Path, step: int) -> None:
    """Drop the rows after `step`, whose steps are about to be made again.

    Step 0 drops all: the training begins anew.
    """
    kept = [row for row in read_rows(path) if row["step"] <= step and step > 0]
    write_text(path, "".join(map(encode_row, kept)))
