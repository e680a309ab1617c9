"""The cells of a sweep whose launcher starts a process or a job for each of them."""

import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra_plugins.reporting import Reporter
from unmask.distributed.processes import PREEMPTED


@dataclass
class Cell:
    """Hold one cell of the sweep and what became of it.

    code: the exit code; None where the cell has not ended. stages: its results, from
    the summary that it writes. pending_state: what tables say while it has no code.
    """

    overrides: list[str]
    code: int | None = None
    stages: list[dict[str, Any]] = field(default_factory=list)
    pending_state: str = "not started"

    @property
    def state(self) -> str:
        """Say in a few words what became of the cell."""
        if self.code is None:
            return self.pending_state
        if self.code < 0:
            return f"killed by {signal.Signals(-self.code).name}"
        if self.code == PREEMPTED:
            return "preempted: run me again"
        if self.has_failed:
            return f"failed (exit {self.code})"
        all_old = all(stage["from_ledger"] for stage in self.stages)
        return "from the ledger" if all_old else "done"

    @property
    def is_unfinished(self) -> bool:
        """Whether it is left to do: not started, or preempted."""
        return self.code in (None, PREEMPTED)

    @property
    def has_failed(self) -> bool:
        """Whether it ended with an error, or with 0 and no results."""
        return not self.is_unfinished and (self.code != 0 or not self.stages)


def print_cells(cells: Sequence[Cell], reporter: Reporter, with_report: bool) -> None:
    """Print the table of all cells, and the report where they are a paper's table."""
    # plugins are imported at every start, and these take a while
    from rich.console import Console

    from unmask.reports.run.tables import cells_table

    rows = [(cell.overrides, cell.state, cell.stages) for cell in cells]
    Console().print(cells_table(rows))
    reporter.finish(with_report)


def exit_unless_finished(cells: Sequence[Cell]) -> None:
    """Exit with 1 where a cell failed, with 75 where one is left to do."""
    if any(cell.has_failed for cell in cells):
        sys.exit(1)
    if any(cell.is_unfinished for cell in cells):
        sys.exit(PREEMPTED)
