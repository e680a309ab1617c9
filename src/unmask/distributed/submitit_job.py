"""A submitit job that runs one cell of a sweep, and is requeued when preempted."""

import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from submitit.core.job_environment import SignalHandler
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
from unmask.distributed.slurm import EARLY_SECONDS

# begins what an attempt of a job prints on stderr
ATTEMPT = "the cell begins"


class CellJob:
    """Run a cell's command as a process of its own, so that it can save when preempted.

    The command gets every signal that the job gets. When it has saved and left, the
    signal goes on to submitit's handler, which requeues the job at its own signal and
    ignores SIGTERM; in the latter case the command starts again and goes on until the
    job is really ended.
    """

    # how long before its time limit SLURM is asked to send the signal; jobs that 0.1
    # has put into the queue have none
    signal_delay_s = 120

    def __init__(self, signal_delay_s: int = 120) -> None:
        self.signal_delay_s = signal_delay_s

    def __call__(self, command: Sequence[str]) -> dict[str, Any]:
        """Return the command's exit code and the results of its stages."""
        print(ATTEMPT, file=sys.stderr, flush=True)
        handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        for handler in handlers.values():
            count_only_timeouts(handler, self.signal_delay_s)
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


def count_only_timeouts(handler: Any, signal_delay_s: int) -> None:
    """Let submitit's handler count a time-out only where the time limit is near.

    It takes the last ten minutes, and a fifth of the time, for the end: there, a
    preempted job would be counted as one that is too slow, and be given up.
    """
    submitit_handler = getattr(handler, "__self__", None)
    if not isinstance(submitit_handler, SignalHandler):
        return
    limit = 60 * submitit_handler._delayed._timeout_min
    began = submitit_handler._start_time

    def has_timed_out() -> bool:
        return time.time() - began >= limit - signal_delay_s - EARLY_SECONDS

    submitit_handler.has_timed_out = has_timed_out  # type: ignore[method-assign]


def last_words(stderr: str) -> str:
    """Return the last line that the job's newest attempt has printed.

    SLURM appends the output of all attempts to one file. Where SLURM says why it ended
    the job, that is the line: others follow it.
    """
    lines = stderr.rpartition(ATTEMPT)[2].strip().splitlines()
    if not lines:
        return "no output"
    if any("DUE TO JOB REQUEUE" in line for line in lines):
        return "no output since it was put into the queue again"
    return next((line for line in lines if "CANCELLED AT" in line), lines[-1])


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
