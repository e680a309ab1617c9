"""A training command under supervision: held at a step, killed, or asked to leave."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from unmask.callbacks.pause import PAUSE_VARIABLE
from unmask.callbacks.tracer import TRACE_FILE
from unmask.commands.verify.interruptions import How, Interruption
from unmask.config.checks import ConfigError
from unmask.distributed.processes import PREEMPTED, received_signals
from unmask.storage.metrics_log import read_rows

POLL_SECONDS = 0.005
# how long the kernel may take to end a killed process
KILL_SECONDS = 60
# a signal has to reach all processes before they are released
SIGNAL_SECONDS = 0.3
BAD_CONFIG = 2
# stderr says one of these where a disk or a quota is full
DISK_FULL_WORDS = ("No space left", "disk is full", "quota")
MORE_SPACE = (
    "the scratch space is full: give a folder on a larger disk,"
    " verify.folder=/path/to/folder"
)
TAIL_LINES = 12  # of what a failed command printed

# starts (command, environment, folder for stdout and stderr) and returns the Popen
Start = Callable[[list[str], dict[str, str], Path], Any]


class VerifyError(ValueError):
    """Report a command that does not do what it should."""


class SupervisedRun:
    """Start a command and watch it from outside.

    output_folder: for its stdout and stderr; its name begins with that of the run.
    stage_folder: of the stage that is held after `step`.
    """

    def __init__(
        self,
        start: Start,
        command: list[str],
        output_folder: Path,
        stage_folder: Path,
        step: int | None,
    ) -> None:
        self.output_folder = output_folder
        self.stage_folder = stage_folder
        # the processes write their numbers there, and files while they are held
        self.hold_folder = output_folder / "hold"
        self.hold_folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.hold_folder.iterdir():
            leftover.unlink()
        pause = {
            "stage": "/".join(stage_folder.parts[-2:]),
            "step": step,
            "folder": str(self.hold_folder),
        }
        environment = {PAUSE_VARIABLE: json.dumps(pause)}
        self.process = start(command, environment, output_folder)

    def wait_for_end(self, minutes: float) -> None:
        """Wait until the command ends. Raises VerifyError where it fails."""
        if exit_code := self._wait(minutes):
            raise self._failure(exit_code)

    def _wait(self, minutes: float) -> int:
        """Return the exit code when the command has ended."""
        codes = (self.process.poll() for _ in self._poll(minutes))
        return next(code for code in codes if code is not None)

    def wait_for(self, interruption: Interruption, minutes: float) -> bool:
        """Wait until the run is where it is to be interrupted.

        False where it ended well before. Raises VerifyError where it failed.
        """
        for _ in self._poll(minutes):
            if interruption.is_held:
                is_there = (self.hold_folder / "held0").exists()
            else:
                is_there = self.newest_step() >= interruption.step
            if is_there:
                return True
            exit_code = self.process.poll()
            if exit_code:
                raise self._failure(exit_code)
            if exit_code is not None:
                break
        return False

    def interrupt(self, how: How, minutes: float) -> How:
        """Kill the run or ask it to leave, await its end, and return what was done."""
        pids = [int(path.read_text()) for path in self._pid_files()]
        if how == How.SIGTERM:
            self.process.send_signal(signal.SIGTERM)
        elif how == How.PROCESS and len(pids) > 1:
            # the others must notice by themselves
            os.kill(pids[-1], signal.SIGKILL)
        else:
            how = How.COMMAND
            self.kill()
        time.sleep(SIGNAL_SECONDS)
        # release the processes that are held
        for held in self.hold_folder.glob("held*"):
            held.unlink()
        exit_code = self._wait(minutes)
        if how == How.SIGTERM and exit_code != PREEMPTED:
            raise self._error(
                f"was asked to leave by SIGTERM and ended with {exit_code}, not with"
                f" {PREEMPTED}"
            )
        return how

    def kill(self) -> None:
        """Kill the command and everything that it started.

        Each process leads a group of its own, with the workers of its loader.
        """
        if self.process.poll() is not None:
            return
        for path in self._pid_files():
            # an empty file: the process is just about to write it
            with suppress(ValueError):
                _kill_group(int(path.read_text()))
        _kill_group(self.process.pid)
        self.process.wait(timeout=KILL_SECONDS)

    def _pid_files(self) -> list[Path]:
        return sorted(self.hold_folder.glob("pid*"))

    def _failure(self, exit_code: int) -> ValueError:
        """Return the error for a command that failed by itself.

        For a bad config it has the command's own message.
        """
        stderr = self._stderr()
        if exit_code == BAD_CONFIG:
            return ConfigError(stderr.strip())
        is_full = any(words in stderr for words in DISK_FULL_WORDS)
        return self._error(f"ended with {exit_code}", MORE_SPACE if is_full else "")

    def _error(self, event: str, remedy: str = "") -> VerifyError:
        """Return what happened to the run, and the last lines that it printed."""
        stderr = self._stderr().strip() or "(nothing on stderr)"
        lines = [*stderr.splitlines()[-TAIL_LINES:], *filter(None, [remedy])]
        title = f"the {self.output_folder.stem} run {event}; it printed:"
        return VerifyError("\n".join([title, *lines]))

    def _stderr(self) -> str:
        return (self.output_folder / "stderr").read_text(errors="replace")

    def newest_step(self) -> int:
        """Return the last step in the trace.

        Rows from before a restart may be included: interruptions come at later steps.
        """
        rows = read_rows(self.stage_folder / TRACE_FILE)
        return max((row["step"] for row in rows), default=0)

    def _poll(self, minutes: float) -> Iterator[None]:
        """Yield again and again while the run makes progress.

        Raises VerifyError when for so many minutes no step was made and no stage begun
        or finished.
        """
        before = self._progress()
        deadline = time.monotonic() + 60 * minutes
        while True:
            yield
            time.sleep(POLL_SECONDS)
            # not from the handler: an exception there can get lost, as within a fork
            if received_signals:
                raise SystemExit(PREEMPTED)
            if time.monotonic() <= deadline:
                continue
            now = self._progress()
            if now == before:
                self.kill()
                raise self._error(
                    f"made no progress for {minutes:g} minutes, so it was killed"
                )
            before = now
            deadline = time.monotonic() + 60 * minutes

    def _progress(self) -> list[tuple[str, int]]:
        """Return the files that grow with each step and stage, with their sizes."""
        ledger = self.stage_folder.parents[1]
        files = [
            *ledger.glob(f"*/*/{TRACE_FILE}"),
            *ledger.glob("*/*/result.json"),
            *ledger.glob("*/*/config.yaml"),
        ]
        return sorted((str(path), path.stat().st_size) for path in files)


def _kill_group(pid: int) -> None:
    """Kill a process and its group."""
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)
