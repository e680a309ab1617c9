"""Follow a stage's metrics log, live or afterwards, and show it on dashboards.

A process of its own (`python -m unmask.dashboards.follower`), without torch: whatever
happens to a dashboard, training goes on. The log alone says what was measured.
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from unmask.dashboards.card import Card, read_card
from unmask.dashboards.names import Row, result_row
from unmask.dashboards.orders import (
    BEGIN,
    END,
    Job,
    Message,
    Say,
    read_job,
    read_lines,
)
from unmask.stages.ledger import read_result
from unmask.storage.metrics_log import read_rows_from

# seconds between two looks at the log
POLL_SECONDS = 1.0
# on Linux's scale, where 0 is normal and 19 the least urgent
NICENESS = 10
# `wandb agent` sets them for what it starts; W&B would ignore the id and the project of
# a run, and write all stages into one
AGENT_VARIABLES = ("WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_RUN_ID")


class Media(NamedTuple):
    """What is shown beside a row: a sheet of reconstructions.

    is_final: the row is the stage's last one, beside which tables are shown.
    """

    picture: Path | None = None
    is_final: bool = False


class Dashboard(Protocol):
    """Something that shows rows; remedy: what the user can do after a fault."""

    name: str
    remedy: str

    def open(self) -> None:
        """Start, in place of what earlier attempts have shown."""

    def log(self, row: Row, media: Media) -> None: ...

    def close(self, code: int) -> None:
        """End; `code` is the exit code of the stage, 0 if it is complete."""


class Follower:
    """Show the rows of one stage's log, each once, on all its dashboards.

    The first fault of a dashboard, of which the user is told, ends it. A row of a
    validation waits for its picture, the last one for the tables.
    """

    def __init__(self, card: Card, dashboards: list[Dashboard], say: Say) -> None:
        self.card = card
        self.dashboards = dashboards
        self.say = say
        self.has_begun = False
        # where the next row begins in the log, in bytes
        self.position = 0
        self.held: Row | None = None

    def begin(self) -> None:
        """Open the dashboards, once: what stands in the log now stays in it."""
        if not self.has_begun:
            self.has_begun = True
            self._each(lambda dashboard: dashboard.open())
            self.read()

    def read(self) -> None:
        """Show the rows that are new."""
        path = self.card.folder / "metrics.jsonl"
        if not self.has_begun or not path.exists():
            return
        is_first = self.position == 0
        rows, self.position = read_rows_from(path, self.position)
        if is_first and rows:
            self._log_first_picture()
        for row in rows:
            self._release()
            if any(key.startswith("val/") for key in row):
                self.held = row
            else:
                self._log(row, Media())
        if self.held and self.card.picture(self.held["epoch"]):
            self._release()

    def end(self, code: int) -> None:
        """Show what is left, and close the dashboards."""
        if code == 0:
            self.begin()
            self.read()
            result = read_result(self.card.folder)
            if result and self.position == 0:
                self.held = result_row(result)
            self._release(is_final=True)
        if self.has_begun:
            self._each(lambda dashboard: dashboard.close(code))

    def _log_first_picture(self) -> None:
        """Show what the model drew before its first step."""
        if picture := self.card.picture(0):
            self._log({"step": 0, "epoch": 0.0}, Media(picture))

    def _release(self, is_final: bool = False) -> None:
        row, self.held = self.held, None
        if row:
            self._log(row, Media(self.card.picture(row.get("epoch")), is_final))

    def _log(self, row: Row, media: Media) -> None:
        self._each(lambda dashboard: dashboard.log(row, media))

    def _each(self, act: Callable[[Dashboard], None]) -> None:
        for dashboard in list(self.dashboards):
            # a dashboard's client may raise anything, SystemExit too
            try:
                act(dashboard)
            except BaseException as error:
                self.dashboards.remove(dashboard)
                self.say(
                    Message(
                        "fault",
                        f"{dashboard.name} failed ({first_line(error)}); training and"
                        f" metrics.jsonl go on without it; {dashboard.remedy}",
                    )
                )


def follow(job: Job, orders: Iterator[str], say: Say) -> None:
    """Show a stage until an order ends it, or the orders end: it was killed then."""
    card = read_card(Path(job.folder), job.device)
    follower = Follower(card, list(_choose(job, card, say)), say)
    code = 1
    for order in orders:
        if order == BEGIN:
            follower.begin()
        elif order.startswith(END):
            code = int(order.removeprefix(END))
            break
        else:
            follower.read()
    follower.end(code)


def _choose(job: Job, card: Card, say: Say) -> Iterator[Dashboard]:
    """Yield the dashboards of a job: local ones first, which cannot hang."""
    if job.tensorboard:
        from unmask.dashboards.tensorboard import TensorBoard

        yield TensorBoard(card, card.folder / job.tensorboard)
    if job.trackio:
        from unmask.dashboards.trackio_run import TrackioRun

        yield TrackioRun(card, job.trackio)
    if job.wandb:
        from unmask.dashboards.wandb_run import WandbRun

        yield WandbRun(card, job.wandb, say)


def first_line(error: BaseException) -> str:
    """Return an error's type and first line."""
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def main() -> None:
    """Follow the stage that the first line on stdin names; say messages on stdout."""
    os.nice(NICENESS)
    for name in AGENT_VARIABLES:
        os.environ.pop(name, None)
    # what packages print is no message: it goes where stderr goes
    with os.fdopen(os.dup(1), "w", buffering=1) as messages:
        os.dup2(2, 1)
        orders = read_lines(0, POLL_SECONDS)
        job = read_job(next(orders))
        follow(job, orders, lambda message: print(message.to_line(), file=messages))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
