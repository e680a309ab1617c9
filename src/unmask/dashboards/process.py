"""Start the process that follows a stage, give it orders, and end it in time."""

import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from unmask.dashboards.orders import BEGIN, END, Job, read_message
from unmask.distributed.processes import PREEMPTED

# the time that it has to end when the run is preempted
PREEMPTION_SECONDS = 5.0
# what packages print in the follower
LOG_FILE = "dashboards.log"
SOURCE = Path(__file__).parents[2]


class Dashboards:
    """Show a stage on its dashboards, from `begin` to the end of a `with` block.

    Training writes the metrics log, and waits for nobody until the end. Without a job
    nothing is shown.
    """

    def __init__(
        self,
        job: Job | None = None,
        seconds: float = 0.0,
        say: Callable[[str], object] = print,
    ) -> None:
        """Give the process `seconds` to end; `say` takes its notes."""
        self.job = job
        self.seconds = seconds
        self.say = say
        self.process: subprocess.Popen[bytes] | None = None
        self.partial = b""
        self.faults: list[str] = []

    def begin(self) -> None:
        """Show the log so far: no row of it will be taken back."""
        self._order(BEGIN)
        self.report()

    def report(self) -> None:
        """Tell the user what the process has said since the last call."""
        if self.process is None:
            return
        assert self.process.stdout
        # nothing there yet: read returns None
        chunk = self.process.stdout.read() or b""
        *lines, self.partial = (self.partial + chunk).split(b"\n")
        for line in lines:
            message = read_message(line.decode())
            if message.kind == "note":
                self.say(message.text)
                continue
            warnings.warn(message.text, stacklevel=3)
            if message.kind == "fault":
                self.faults.append(message.text)

    def __enter__(self) -> "Dashboards":
        if self.job:
            try:
                with (Path(self.job.folder) / LOG_FILE).open("wb") as log:
                    self.process = _start(log)
                self._order(self.job.to_line())
                assert self.process.stdout
                os.set_blocking(self.process.stdout.fileno(), False)
            except OSError as error:
                self._warn(
                    f"dashboards cannot be started ({error}); metrics.jsonl goes on"
                )
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
        self.close(code)

    def close(self, code: int) -> None:
        """Wait for the process to end.

        When the run is preempted the wait is short, as the scheduler's patience is; the
        next attempt shows all rows again.
        """
        if self.process is None:
            return
        self._order(f"{END} {code}")
        seconds = self.seconds
        if code == PREEMPTED:
            seconds = min(seconds, PREEMPTION_SECONDS)
        assert self.process.stdin
        with suppress(OSError):
            self.process.stdin.close()
        try:
            left = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.report()
            self._warn(
                f"dashboards gave no answer for {seconds:g} seconds; metrics.jsonl has"
                f" all rows; {self._remedy()}"
            )
        else:
            self.report()
            if left and not self.faults:
                self._warn(
                    f"the process of the dashboards ended with {left}: see"
                    f" {self._log_path()}; {self._remedy()}"
                )
        assert self.process.stdout
        self.process.stdout.close()
        self.process = None

    def _order(self, line: str) -> None:
        # it may have died: what is lost is said at the end
        if self.process:
            assert self.process.stdin
            with suppress(OSError):
                self.process.stdin.write(line.encode() + b"\n")
                self.process.stdin.flush()

    def _warn(self, text: str) -> None:
        self.faults.append(text)
        warnings.warn(text, stacklevel=3)

    def _log_path(self) -> Path:
        assert self.job
        return Path(self.job.folder) / LOG_FILE

    def _remedy(self) -> str:
        assert self.job
        if not self.job.wandb:
            return "an attempt that goes on shows all rows again"
        return f"send them later: python src/send.py {self.job.folder}"


def _start(log: IO[bytes]) -> "subprocess.Popen[bytes]":
    """Start the follower in a session of its own: Ctrl-C must not reach it."""
    before = os.environ.get("PYTHONPATH")
    path = f"{SOURCE}{os.pathsep}{before}" if before else str(SOURCE)
    return subprocess.Popen(
        [sys.executable, "-m", "unmask.dashboards.follower"],
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,
    )
