"""The cells of a sweep whose launcher starts a process or a job for each of them."""

import signal
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra_plugins.reporting import Reporter
from unmask.commands.units import count_noun, format_duration
from unmask.distributed.processes import PREEMPTED

NOT_STARTED = "not started"


@dataclass
class Cell:
    """Hold one cell of the sweep and what became of it.

    code: the exit code; None where the cell has not ended. stages: its results, from
    the summary that it writes. seconds: that it took. pending_state: what tables say
    while it has no code.
    """

    overrides: list[str]
    code: int | None = None
    stages: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    pending_state: str = NOT_STARTED

    @property
    def has_job(self) -> bool:
        """Whether a job of a queue goes on with it after this command."""
        return self.pending_state != NOT_STARTED

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
    def has_trained(self) -> bool:
        """Whether it made a result, and did not only return those of the ledger."""
        return any(not stage["from_ledger"] for stage in self.stages)

    @property
    def is_unfinished(self) -> bool:
        """Whether it is left to do: not started, or preempted."""
        return self.code in (None, PREEMPTED)

    @property
    def has_failed(self) -> bool:
        """Whether it ended with an error, or with 0 and no results."""
        return not self.is_unfinished and (self.code != 0 or not self.stages)


def describe_progress(cells: Sequence[Cell], cell: Cell, at_once: int) -> str:
    """Say what became of a cell, and how long the others may still take.

    at_once: how many cells run side by side. Cells that are left are taken to last as
    those that trained did in the mean.
    """
    text = f"{cell.state}, {format_duration(cell.seconds)}"
    left = sum(other.code is None for other in cells)
    if not left:
        return text
    ended = [other for other in cells if other.code is not None]
    trained = [other.seconds for other in ended if other.has_trained]
    mean = statistics.mean(trained or [other.seconds for other in ended])
    seconds = mean * left / min(left, at_once)
    noun = count_noun(left, "cell")
    return f"{text}; {noun} left, about {format_duration(seconds)}"


def print_cells(cells: Sequence[Cell], reporter: Reporter, is_complete: bool) -> None:
    """Print the table of cells, and the pages where no signal asks to leave.

    Cells that were not begun are counted, not listed.
    """
    # plugins are imported at every start, and these take a while
    from rich.console import Console

    from unmask.reports.run.tables import cells_table

    begun = [cell for cell in cells if cell.code is not None or cell.has_job]
    if begun:
        rows = [(cell.overrides, cell.state, cell.stages) for cell in begun]
        Console().print(cells_table(rows))
    if waiting := len(cells) - len(begun):
        print(
            f"{count_noun(waiting, 'cell')} not started; the same command goes on with"
            " what is left",
            flush=True,
        )
    reporter.finish(is_complete)


def exit_unless_finished(cells: Sequence[Cell]) -> None:
    """Exit with 1 where a cell failed, with 75 where one is left to do."""
    if any(cell.has_failed for cell in cells):
        sys.exit(1)
    if any(cell.is_unfinished for cell in cells):
        sys.exit(PREEMPTED)
