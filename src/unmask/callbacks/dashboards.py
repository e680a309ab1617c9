"""Dashboards that show the rows of the metrics log: TensorBoard, or W&B.

Each works in a thread of its own. Whatever happens to a dashboard, training goes on.
"""

import queue
import threading
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from torch.utils.tensorboard import SummaryWriter

from unmask.distributed.processes import PREEMPTED

# The time that a dashboard has to end when the run is preempted.
PREEMPTION_SECONDS = 5.0
# A row of the metrics log: step, epoch, and the metrics at that step.
Row = dict[str, Any]


@runtime_checkable
class Dashboard(Protocol):
    """Something that shows rows.

    remedy: what the user can do after a failure. notes: warnings for the user; whoever
    shows them takes them out.
    """

    name: str
    remedy: str
    notes: list[str]

    def open(self, rows: list[Row]) -> None:
        """Start with the rows so far, each once, whatever earlier attempts left."""

    def log(self, row: Row) -> None: ...

    def close(self, code: int) -> None:
        """End; `code` is the exit code of the stage, 0 if it is complete."""

    def abort(self) -> None:
        """Give up what hangs; `close` may be under way, or not even begun."""


class TensorBoard:
    """Write all rows of the stage into one event file, replacing earlier attempts'."""

    def __init__(self, folder: Path) -> None:
        self.name = "TensorBoard"
        self.folder = folder
        self.remedy = "an attempt that goes on writes all rows again"
        self.notes: list[str] = []
        self.writer: SummaryWriter | None = None

    def open(self, rows: list[Row]) -> None:
        earlier = list(self.folder.glob("events.out.tfevents.*"))
        # A TensorBoard that has read the earlier files forgets their rows by
        # purge_step.
        self.writer = SummaryWriter(str(self.folder), purge_step=0)
        for row in rows:
            self.log(row)
        self.writer.flush()
        for path in earlier:
            path.unlink()

    def log(self, row: Row) -> None:
        assert self.writer
        for key, value in row.items():
            if key != "step":
                self.writer.add_scalar(key, value, row["step"])

    def close(self, code: int) -> None:
        if self.writer:
            self.writer.close()

    def abort(self) -> None:
        # Its threads are daemons, and do not keep Python from exiting.
        pass


class DashboardThread:
    """Run a dashboard in a thread, so that training waits for it only at the end.

    After its first fault, of which the user is warned once, it gets no more rows. A
    dashboard that is not closed `seconds` after the end is given up.
    """

    def __init__(self, dashboard: Dashboard, seconds: float, rows: list[Row]) -> None:
        self.dashboard = dashboard
        self.seconds = seconds
        self.fault = ""
        self.has_warned = False
        self.exit_code = 0
        # Rows that the thread has yet to log; None ends it.
        self.pending: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        self.thread = threading.Thread(
            target=self._run, args=(rows,), name=dashboard.name, daemon=True
        )
        self.thread.start()

    def log(self, row: Row) -> None:
        if not self.fault:
            self.pending.put(row)
        self._warn()

    def close(self, code: int) -> None:
        """Wait for the dashboard to end.

        When the run is preempted the wait is short, as the scheduler's patience is; the
        next attempt shows all rows again.
        """
        self.exit_code = code
        seconds = self.seconds
        if code == PREEMPTED:
            seconds = min(seconds, PREEMPTION_SECONDS)
        self.pending.put(None)
        self.thread.join(seconds)
        if self.thread.is_alive() and not self.fault:
            self.fault = f"it gave no answer for {seconds:g} seconds"
            with suppress(OSError):
                self.dashboard.abort()
        self._warn()

    def _run(self, rows: list[Row]) -> None:
        # A dashboard's client may raise anything, SystemExit too.
        try:
            self.dashboard.open(rows)
            for row in iter(self.pending.get, None):
                self.dashboard.log(row)
        except BaseException as error:
            self.fault = _first_line(error)
        try:
            self.dashboard.close(self.exit_code if not self.fault else 1)
        except BaseException as error:
            self.fault = self.fault or _first_line(error)

    def _warn(self) -> None:
        while self.dashboard.notes:
            warnings.warn(self.dashboard.notes.pop(0), stacklevel=2)
        if self.fault and not self.has_warned:
            self.has_warned = True
            warnings.warn(
                f"{self.dashboard.name} failed ({self.fault}); training and"
                f" metrics.jsonl go on without it; {self.dashboard.remedy}",
                stacklevel=2,
            )


class Dashboards:
    """Show a stage on all its dashboards, from `start` to the end of a `with` block."""

    def __init__(self, dashboards: Iterable[tuple[Dashboard, float]] = ()) -> None:
        """Keep each dashboard with the seconds that its end may take."""
        self.dashboards = list(dashboards)
        self.threads: list[DashboardThread] = []

    def start(self, rows: list[Row]) -> None:
        """Open all with the rows of the metrics log; a second call does nothing."""
        if self.threads:
            return
        for dashboard, seconds in self.dashboards:
            self.threads.append(DashboardThread(dashboard, seconds, list(rows)))

    def log(self, row: Row) -> None:
        for thread in self.threads:
            thread.log(row)

    def __enter__(self) -> "Dashboards":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        code = int(error is not None)
        if isinstance(error, SystemExit) and isinstance(error.code, int):
            code = error.code
        for thread in self.threads:
            thread.close(code)


def _first_line(error: BaseException) -> str:
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
