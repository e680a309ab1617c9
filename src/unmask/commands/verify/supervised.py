"""A training command that is watched from outside: awaited, held at a step, killed, asked to leave."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from unmask.callbacks.tracer import HOLD, TRACE
from unmask.commands.verify.interruptions import How, Interruption
from unmask.config.checks import ConfigError
from unmask.distributed.processes import PREEMPTED
from unmask.storage.metrics_log import read

POLL = 0.005
ENDS = 60  # seconds that the kernel has to end a process
ARRIVES = 0.3  # seconds that a signal has to reach all processes before they go on
BAD_CONFIG = 2
FULL = ("No space left", "disk is full", "quota")
MORE_SPACE = (
    "the scratch space is full: give a folder on a larger disk,"
    " verify.folder=/path/to/folder"
)
TAIL = 12  # lines of what a failed command said

# command, environment, folder for stdout and stderr: Popen
Start = Callable[[list[str], dict[str, str], Path], Any]


class VerifyError(ValueError):
    """A command that does not do what it should, in words."""


class SupervisedRun:
    """One start of a command; `place` takes what it says. stage: its folder, where it may be held after `step`.

    leaving: whether to stop watching; a flag, since what a signal's handler raises may be lost (within a fork it is).
    """

    def __init__(
        self,
        start: Start,
        command: list[str],
        place: Path,
        stage: Path,
        step: int | None,
        leaving: Callable[[], bool],
    ) -> None:
        self.stage, self.place, self.folder, self.leaving = (
            stage,
            place,
            place / "hold",
            leaving,
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.iterdir():
            left.unlink()
        asked = {
            "stage": "/".join(stage.parts[-2:]),
            "step": step,
            "folder": str(self.folder),
        }
        self.process = start(command, {HOLD: json.dumps(asked)}, place)

    def ended(self, minutes: float, code: int = 0) -> None:
        """Wait. Raises VerifyError where it ends with another code."""
        for _ in self._progress(minutes):
            if (left := self.process.poll()) is not None:
                if left != code:
                    raise self.fault(left)
                return

    def arrived(self, where: Interruption, minutes: float) -> bool:
        """Wait until it is there; False where it ended well before. Raises VerifyError where it ended otherwise."""
        for _ in self._progress(minutes):
            if (
                (self.folder / "held0").exists()
                if where.held
                else self.made() >= where.step
            ):
                return True
            if (left := self.process.poll()) is not None:
                if left:
                    raise self.fault(left)
                return False
        raise AssertionError

    def interrupt(self, how: How, minutes: float) -> How:
        """Really: the kernel ends it, or it is asked to. Waits for its end; what was done."""
        members = [int(path.read_text()) for path in sorted(self.folder.glob("pid*"))]
        if how == How.SIGTERM:
            self.process.send_signal(signal.SIGTERM)
        elif how == How.PROCESS and len(members) > 1:
            os.kill(members[-1], signal.SIGKILL)
        else:
            how = How.COMMAND
            self.kill()
        time.sleep(ARRIVES)
        for held in self.folder.glob("held*"):
            held.unlink()
        for _ in self._progress(minutes):
            if (left := self.process.poll()) is not None:
                break
        if how == How.SIGTERM and left != PREEMPTED:
            raise VerifyError(
                self.words(
                    f"was asked to leave by SIGTERM and ended with {left}, not with"
                    f" {PREEMPTED}"
                )
            )
        return how

    def kill(self) -> None:
        """Everything that it started, too: each process leads a group of its own, with its loader's workers."""
        if self.process.poll() is not None:
            return
        for path in self.folder.glob("pid*"):
            with suppress(ValueError):  # not yet written
                _kill(int(path.read_text()))
        _kill(self.process.pid)
        self.process.wait(timeout=ENDS)

    def fault(self, code: int) -> ValueError:
        """What a command that failed by itself says; of a bad config the same as the command."""
        if code == BAD_CONFIG:
            return ConfigError(
                (self.place / "stderr").read_text(errors="replace").strip()
            )
        full = any(
            word in (self.place / "stderr").read_text(errors="replace") for word in FULL
        )
        return VerifyError(
            self.words(f"ended with {code}") + (f"\n{MORE_SPACE}" if full else "")
        )

    def words(self, what: str) -> str:
        """What happened, and the last that it said."""
        said = (self.place / "stderr").read_text(
            errors="replace"
        ).strip() or "(nothing on stderr)"
        return (
            f"the run that is to be {self.place.name} {what}; it said:\n"
            + "\n".join(said.splitlines()[-TAIL:])
        )

    def made(self) -> int:
        """The newest step; lines of an earlier start are of earlier steps than those that are awaited."""
        return max((row["step"] for row in read(self.stage / TRACE)), default=0)

    def _progress(self, minutes: float) -> Iterator[None]:
        """Beats. Raises VerifyError when for so long no step was made and no stage begun or finished."""
        before, deadline = self._state(), time.monotonic() + 60 * minutes
        while True:
            yield
            time.sleep(POLL)
            if self.leaving():
                raise SystemExit(PREEMPTED)
            if time.monotonic() > deadline:
                if (now := self._state()) == before:
                    self.kill()
                    raise VerifyError(
                        self.words(
                            f"made no step for {minutes:g} minutes and was ended"
                        )
                    )
                before, deadline = now, time.monotonic() + 60 * minutes

    def _state(self) -> list[tuple[str, int]]:
        ledger = self.stage.parents[1]
        files = [
            *ledger.glob(f"*/*/{TRACE}"),
            *ledger.glob("*/*/result.json"),
            *ledger.glob("*/*/config.yaml"),
        ]
        return sorted((str(path), path.stat().st_size) for path in files)


def _kill(pid: int) -> None:
    """It and its group."""
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)
