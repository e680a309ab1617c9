"""The cells of a sweep where each is a process of its own: their command, their states, the table at the end."""

import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

from hydra_plugins.reporting import Reporter
from unmask.commands.cli import config_flags
from unmask.distributed.processes import PREEMPTED


@dataclass
class Cell:
    """One cell of the sweep and what became of it."""

    overrides: list[str]
    code: int | None = None
    stages: list[dict[str, Any]] = field(default_factory=list)
    waiting: str = "not started"  # what it is where it has no exit code

    @property
    def state(self) -> str:
        if self.code is None:
            return self.waiting
        if self.code < 0:
            return f"killed by {signal.Signals(-self.code).name}"
        if self.code == PREEMPTED:
            return "preempted: run me again"
        if self.failed:
            return f"failed (exit {self.code})"
        return (
            "from the ledger"
            if all(stage["from_ledger"] for stage in self.stages)
            else "done"
        )

    @property
    def unfinished(self) -> bool:
        """Not begun, or asked to leave: no fault of its own."""
        return self.code in (None, PREEMPTED)

    @property
    def failed(self) -> bool:
        return not self.unfinished and (self.code != 0 or not self.stages)


def command(overrides: Sequence[str]) -> list[str]:
    """That of one run, as the sweep's command was called."""
    return [
        sys.executable,
        str(Path(sys.argv[0]).resolve()),
        *config_flags(sys.argv[1:]),
        *overrides,
    ]


def show(cells: Sequence[Cell], reporter: Reporter, whole: bool) -> None:
    """The table of all cells, and the report where they are the paper's tables."""
    from rich.console import Console

    from unmask.reports.run.tables import cells_table

    Console().print(
        cells_table([(cell.overrides, cell.state, cell.stages) for cell in cells])
    )
    reporter.finish(whole)


def ended(cells: Sequence[Cell]) -> list[JobReturn]:
    """What a launcher returns; it leaves with 1 where a cell failed, and with 75 where one is left to do."""
    if any(cell.failed for cell in cells):
        raise SystemExit(1)
    if any(cell.unfinished for cell in cells):
        raise SystemExit(PREEMPTED)
    return [
        JobReturn(overrides=c.overrides, status=JobStatus.COMPLETED, _return_value=None)
        for c in cells
    ]
