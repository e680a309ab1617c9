"""A submitit job that runs one cell of a sweep, and is requeued when preempted."""

import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from submitit.core.utils import DelayedSubmission, UncompletedJobError

from unmask.distributed.processes import (
    PREEMPTED,
    STOP_SIGNALS,
    SUMMARY_VARIABLE,
    ForwardSignals,
    received_signals,
    start_process,
    wait_for_cell,
)


class CellJob:
    """Run a cell's command as a process of its own, so that it can save when preempted.

    The command gets every signal that the job gets. When it has saved and left, the
    signal goes on to submitit's handler, which requeues the job at its own signal and
    ignores SIGTERM; in the latter case the command starts again and goes on until the
    job is really ended.
    """

    def __call__(self, command: Sequence[str]) -> dict[str, Any]:
        """Return the command's exit code and the results of its stages."""
        handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        while True:
            code, stages = _run(command)
            if code == PREEMPTED and received_signals:
                try:
                    _call_handlers(handlers)
                # submitit's refusal: the job ran out of time too often
                except UncompletedJobError as refusal:
                    print(refusal, flush=True)
                else:
                    # submitit has ignored it, so the job still has time
                    if set(received_signals) == {signal.SIGTERM}:
                        continue
            return {"code": code, "stages": stages}

    def checkpoint(self, command: Sequence[str]) -> DelayedSubmission:
        """Tell submitit what to run after requeueing: the same command.

        The ledger knows how far the run has come.
        """
        return DelayedSubmission(self, command)


def _run(command: Sequence[str]) -> tuple[int, list[dict[str, Any]]]:
    with tempfile.TemporaryDirectory(prefix="unmask-cell-") as folder:
        summary = Path(folder) / "summary.json"
        with ForwardSignals() as signals:
            process = start_process(list(command), {SUMMARY_VARIABLE: str(summary)})
            signals.add(process)
            return wait_for_cell(process, summary)


def _call_handlers(handlers: dict[signal.Signals, Any]) -> None:
    """Call the handlers of the received signals; submitit's may end this process."""
    for number in map(signal.Signals, dict.fromkeys(received_signals)):
        print(
            f"asked to leave by {number.name}; the run has ended and goes on from its"
            " last checkpoint",
            flush=True,
        )
        handler = handlers[number]
        if callable(handler):
            handler(number, None)
