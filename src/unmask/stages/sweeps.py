"""What a sweep leaves in the ledger: runs/sweeps/<id>.json, the list of its cells.

The id is a hash of the cells' stages: the same command again is the same sweep. While
the command of a sweep runs it holds the lock beside that file.
"""

import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from unmask.stages.checked_cells import plan_identity
from unmask.stages.fingerprint import digest
from unmask.stages.ledger import is_locked, utc_now
from unmask.stages.plan import Plan
from unmask.storage.atomic import write_json

# the environment variable with the id of the sweep that a cell is of
SWEEP_VARIABLE = "UNMASK_SWEEP"
FOLDER = "sweeps"
# of a key in the title of a sweep
MAX_VALUES = 8
# others who look at the lock hold it for an instant
LOCK_SECONDS = 0.5

# of one cell, as typed
Overrides = tuple[str, ...]
# of a table of the paper: its experiment, and the row that a cell fills
TableRow = tuple[str, str]


@dataclass(frozen=True)
class SweepCell:
    """One run of a sweep.

    identity: of its stages. stages: "kind/fingerprint" of those that were asked for;
    weights: of those that make what they start from. tables: what it is a row of.
    """

    overrides: Overrides
    identity: str
    stages: tuple[str, ...]
    weights: tuple[str, ...]
    tables: tuple[TableRow, ...]


@dataclass(frozen=True)
class Sweep:
    """A sweep as its file tells of it; arguments: as typed after `-m`."""

    id: str
    arguments: tuple[str, ...]
    started: str
    host: str
    pid: int
    cells: tuple[SweepCell, ...]
    path: Path

    @property
    def command(self) -> str:
        return f"python src/train.py -m {' '.join(self.arguments)}"

    @property
    def title(self) -> str:
        """Return what is swept: the arguments that have several values, shortened."""
        swept = [
            _shorten(argument)
            for argument in self.arguments
            if argument.startswith("experiment=") or _is_swept(argument)
        ]
        return " ".join(swept or self.arguments) or "one cell"

    @property
    def is_driven(self) -> bool:
        """Whether the command that starts its cells still runs."""
        return is_locked(self.path.with_suffix(".lock"))


def _shorten(argument: str) -> str:
    """Return it with the first and the last of many values: a title is one line."""
    key, equals, text = argument.partition("=")
    values = text.split(",")
    if len(values) <= MAX_VALUES or set("[({'\"") & set(text):
        return argument
    shown = ",".join([*values[: MAX_VALUES // 2], "...", values[-1]])
    return f"{key}{equals}{shown} ({len(values)} values)"


def _is_swept(argument: str) -> bool:
    key, _, value = argument.partition("=")
    is_list = value.startswith(("[", "'[", '"[')) and value.count("[") == 1
    is_range = value.startswith(("range(", "choice(", "glob(", "interval("))
    return not key.startswith("hydra") and (is_range or ("," in value and not is_list))


def write_sweep(
    plans: Mapping[Overrides, Plan],
    tables: Mapping[Overrides, Sequence[TableRow]],
    arguments: Sequence[str],
) -> Path | None:
    """Write the sweep's file, named by its id, and return its path.

    None where the ledger cannot be written: the cells say so themselves.
    """
    cells = [_cell(o, plan, tables.get(o, ())) for o, plan in plans.items()]
    sweep_id = digest({"cells": [cell["identity"] for cell in cells]})
    runs_dir = next(iter(plans.values())).config.runs_dir
    path = Path(runs_dir) / FOLDER / f"{sweep_id}.json"
    content = {
        "arguments": list(arguments),
        "started": utc_now(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "cells": cells,
    }
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)
        return path
    return None


def _cell(
    overrides: Overrides, plan: Plan, tables: Sequence[TableRow]
) -> dict[str, Any]:
    names = {spec: spec.key for spec in plan.stages}
    asked = [spec for spec in names if spec.kind in plan.config.stages]
    return {
        "overrides": list(overrides),
        "identity": plan_identity(plan),
        "stages": [names[spec] for spec in asked],
        "weights": [names[spec] for spec in names if spec not in asked],
        "tables": [list(table) for table in tables],
    }


@contextmanager
def hold_sweep(path: Path | None) -> Iterator[None]:
    """Hold the sweep's lock within, so that others see that it runs.

    Goes on without it where another process has it, or the file system has no locks.
    """
    with ExitStack() as stack:
        if path:
            lock = FileLock(path.with_suffix(".lock"))
            with suppress(Timeout, OSError, NotImplementedError):
                stack.enter_context(lock.acquire(timeout=LOCK_SECONDS))
        yield


def read_sweeps(runs_dir: Path) -> list[Sweep]:
    """Return all sweeps of a ledger, the latest last; files that are damaged are none.

    Their folder also holds the files of Hydra's launchers.
    """
    sweeps = [read_sweep(path) for path in (runs_dir / FOLDER).glob("*.json")]
    return sorted(filter(None, sweeps), key=lambda sweep: sweep.started)


def read_sweep(path: Path) -> Sweep | None:
    """Return the sweep of a file; None where there is none, or it is damaged."""
    try:
        content = json.loads(path.read_text())
        # raises ValueError for what is no time
        datetime.fromisoformat(content["started"])
        cells = tuple(
            SweepCell(
                _texts(cell["overrides"]),
                cell["identity"],
                _texts(cell["stages"]),
                _texts(cell["weights"]),
                tuple((table, row) for table, row in map(_texts, cell["tables"])),
            )
            for cell in content["cells"]
        )
        return Sweep(
            path.stem,
            _texts(content["arguments"]),
            content["started"],
            content["host"],
            content["pid"],
            cells,
            path,
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def unfinished_cells(runs_dir: Path, sweep_id: str) -> set[Overrides]:
    """Return the overrides of cells that lack a result; none where all is unknown."""
    sweep = read_sweep(runs_dir / FOLDER / f"{sweep_id}.json")
    return {
        cell.overrides
        for cell in (sweep.cells if sweep else ())
        if not all((runs_dir / key / "result.json").exists() for key in cell.stages)
    }


def _texts(values: Any) -> tuple[str, ...]:
    """Return them; TypeError where one is no text."""
    if not all(isinstance(value, str) for value in values):
        raise TypeError(values)
    return tuple(values)
