"""Mirrors of the journal: places that show a stage's rows. What happens to a mirror never happens to the training."""

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

LEAVING = 5.0  # seconds
Row = dict[str, Any]  # a line of the journal: step, epoch and what was measured there


@runtime_checkable
class Dashboard(Protocol):
    """Somewhere that shows rows. later: what to do where it failed; notes: for the user, taken from there."""

    name: str
    later: str
    notes: list[str]

    def open(self, rows: list[Row]) -> None:
        """Begin, with the rows that the journal kept: each stands there once, whatever earlier attempts left."""

    def log(self, row: Row) -> None: ...

    def close(self, code: int) -> None:
        """code: 0 where the stage came to its end."""

    def abandon(self) -> None:
        """Let go of what is waited for: `close` is not done, or not even begun."""


class TensorBoard:
    """One event file with all rows of the stage; those of earlier attempts make way for it."""

    def __init__(self, folder: Path) -> None:
        self.name, self.folder = "TensorBoard", folder
        self.later = "an attempt that goes on writes all rows again"
        self.notes: list[str] = []
        self.writer: SummaryWriter | None = None

    def open(self, rows: list[Row]) -> None:
        earlier = list(self.folder.glob("events.out.tfevents.*"))
        # purge_step tells a TensorBoard that has read the earlier ones to forget them
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

    def abandon(self) -> None:
        pass  # its threads do not keep Python from leaving


class DashboardThread:
    """A mirror at work in a thread of its own, so that training waits for it at its end alone, and not for ever.

    Its first fault is told once, and it gets no more rows; so it is with one that is not done `seconds` after the end.
    """

    def __init__(self, mirror: Dashboard, seconds: float, rows: list[Row]) -> None:
        self.mirror, self.seconds, self.fault, self.told, self.code = (
            mirror,
            seconds,
            "",
            False,
            0,
        )
        self.rows: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        self.thread = threading.Thread(
            target=self._work, args=(rows,), name=mirror.name, daemon=True
        )
        self.thread.start()

    def log(self, row: Row) -> None:
        if not self.fault:
            self.rows.put(row)
        self._tell()

    def close(self, code: int) -> None:
        """Of who is asked to leave the time is short, and the next attempt gives all rows again."""
        self.code, seconds = (
            code,
            (min(self.seconds, LEAVING) if code == PREEMPTED else self.seconds),
        )
        self.rows.put(None)
        self.thread.join(seconds)
        if self.thread.is_alive() and not self.fault:
            self.fault = f"it gave no answer for {seconds:g} seconds"
            with suppress(OSError):
                self.mirror.abandon()
        self._tell()

    def _work(self, rows: list[Row]) -> None:
        try:
            self.mirror.open(rows)
            for row in iter(self.rows.get, None):
                self.mirror.log(row)
        # whatever a dashboard's client raises, SystemExit too
        except BaseException as error:
            self.fault = _said(error)
        try:
            self.mirror.close(self.code if not self.fault else 1)
        except BaseException as error:
            self.fault = self.fault or _said(error)

    def _tell(self) -> None:
        while self.mirror.notes:
            warnings.warn(self.mirror.notes.pop(0), stacklevel=2)
        if self.fault and not self.told:
            self.told = True
            warnings.warn(
                f"{self.mirror.name} failed ({self.fault}); training and journal go on"
                f" without it; {self.mirror.later}",
                stacklevel=2,
            )


class Dashboards:
    """All mirrors of a stage, from its first row to the end of the block."""

    def __init__(self, chosen: Iterable[tuple[Dashboard, float]] = ()) -> None:
        """Each with the seconds that its end may take."""
        self.chosen, self.begun = list(chosen), False
        self.shown: list[DashboardThread] = []

    def begin(self, rows: list[Row]) -> None:
        """With what the journal has; a second call changes nothing."""
        if not self.begun:
            self.begun = True
            self.shown = [
                DashboardThread(mirror, seconds, list(rows))
                for mirror, seconds in self.chosen
            ]

    def log(self, row: Row) -> None:
        for mirror in self.shown:
            mirror.log(row)

    def __enter__(self) -> "Dashboards":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        code = (
            error.code
            if isinstance(error, SystemExit) and isinstance(error.code, int)
            else int(error is not None)
        )
        for mirror in self.shown:
            mirror.close(code)


def _said(error: BaseException) -> str:
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
