"""What a job of submitit's does: the command of one cell; asked to leave, it is put into the queue again."""

import json
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from submitit.core.utils import DelayedSubmission, UncompletedJobError

from unmask.distributed.processes import (
    PREEMPTED,
    SIGNALS,
    SUMMARY,
    Forwarding,
    received_signals,
    start_process,
)


class CellJob:
    """A command as a process of its own, so that nothing that asks it to leave comes in the middle of a step.

    It gets every signal that the job gets. When it has saved and left, the signal goes on to the handler that stood
    there before: submitit's, which ends the job and puts it into the queue again at its own signal, and passes over
    SIGTERM: then the command goes on until the job is really ended.
    """

    def __call__(self, command: Sequence[str]) -> dict[str, Any]:
        """The command's exit code and what its stages gave."""
        before = {number: signal.getsignal(number) for number in SIGNALS}
        while True:
            code, stages = _run(command)
            if code == PREEMPTED and received_signals:
                try:
                    _hand_on(before)
                except UncompletedJobError as refusal:  # it ran out of time too often
                    print(refusal, flush=True)
                else:
                    if set(received_signals) == {signal.SIGTERM}:
                        continue
            return {"code": code, "stages": stages}

    def checkpoint(self, command: Sequence[str]) -> DelayedSubmission:
        """submitit's question what to run when the job comes back: the same, and the ledger knows where it stands."""
        return DelayedSubmission(self, command)


def _run(command: Sequence[str]) -> tuple[int, list[dict[str, Any]]]:
    received_signals.clear()
    with tempfile.TemporaryDirectory(prefix="unmask-cell-") as folder:
        summary = Path(folder) / "summary.json"
        children: list[Any] = []
        with Forwarding(SIGNALS, lambda: children) as signals:
            children.append(start_process(list(command), {SUMMARY: str(summary)}))
            signals.catch_up(children[0])
            code = children[0].wait()
        if received_signals and -code in SIGNALS:
            code = PREEMPTED  # asked before it could do better: nothing was begun
        return code, json.loads(summary.read_text()) if summary.exists() else []


def _hand_on(before: dict[signal.Signals, Any]) -> None:
    """What came goes to those who would have got it; submitit's own handler may end this process here."""
    for number in map(signal.Signals, dict.fromkeys(received_signals)):
        print(
            f"asked to leave by {number.name}; the run has ended and goes on from its"
            " last checkpoint",
            flush=True,
        )
        if callable(before[number]):
            before[number](number, None)
