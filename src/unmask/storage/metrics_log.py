"""metrics.jsonl, the source of truth for tables, curves and pages: one line a log, append-only."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from unmask.storage.atomic import write_text


def read(path: Path) -> list[dict[str, Any]]:
    """The journal's lines; a half-written one (a kill, a full disk) does not count."""
    return _rows(path.read_text(errors="replace")) if path.exists() else []


def read_from(path: Path, start: int) -> tuple[list[dict[str, Any]], int]:
    """The whole lines from that byte on, and where they end."""
    with path.open("rb") as file:
        file.seek(start)
        text = file.read()
    end = text.rfind(b"\n") + 1
    return _rows(text[:end].decode(errors="replace")), start + end


def _rows(text: str) -> list[dict[str, Any]]:
    rows = []
    for row in text.splitlines():
        with suppress(json.JSONDecodeError):
            rows.append(json.loads(row))
    return rows


def line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


def append(path: Path, row: dict[str, Any]) -> None:
    """Raises OSError with the place and the remedy where the line cannot be written."""
    try:
        with path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                # a line that a kill cut: the next one must not be lost with it
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(line(row).encode())
    except OSError as error:
        raise OSError(
            f"cannot write {path}: {error.strerror}; free or unlock it and type the"
            " same command again: it goes on from the last checkpoint"
        ) from error


def truncate_after(path: Path, step: int) -> None:
    """Drop what was logged after `step`: those steps are about to be made again."""
    kept = [row for row in read(path) if row["step"] <= step and step > 0]
    write_text(path, "".join(map(line, kept)))
