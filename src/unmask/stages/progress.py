"""How far a stage is, and whether it runs: what its folder shows to other processes."""

import json
import secrets
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from unmask.stages.ledger import is_locked
from unmask.storage.atomic import read_note

State = Literal["done", "running", "stalled", "interrupted", "failed", "damaged"]
STATES: tuple[State, ...] = (
    *("done", "running", "stalled"),
    *("interrupted", "failed", "damaged"),
)
FILE = "progress.json"
# a training that writes nothing for so long has stalled
STALLED_MINUTES = 10.0
# what Ctrl-C leaves in error.txt: asked for, and no failure
INTERRUPTION = "KeyboardInterrupt"
MIN_SECONDS = 1e-9


@dataclass(frozen=True)
class Progress:
    """Steps of a training; seconds: since start_step, where it began or went on.

    at: seconds since 1970, when this was written.
    """

    step: int
    steps: int
    start_step: int
    seconds: float
    at: float

    @property
    def share(self) -> float:
        return self.step / max(self.steps, 1)

    @property
    def seconds_left(self) -> float | None:
        """Return the time that the other steps take at the speed so far."""
        made = self.step - self.start_step
        if made <= 0:
            return None
        return (self.steps - self.step) * self.seconds / made


def write_progress(folder: Path, progress: Progress) -> None:
    """Write progress.json, at once or not at all; a full disk is no error here.

    It is not flushed to the disk: that may take longer than a step.
    """
    temporary = folder / f".{FILE}.{secrets.token_hex(4)}.tmp"
    with suppress(OSError):
        temporary.write_text(json.dumps(asdict(progress)))
        temporary.replace(folder / FILE)


def read_progress(folder: Path) -> Progress | None:
    """Return how far a training is; None where it has not said so."""
    try:
        return Progress(**json.loads((folder / FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def read_owner(folder: Path) -> dict[str, Any]:
    """Return the pid, host and time of the process that works on a stage, or did."""
    return read_note(folder / "owner.json")


def unfinished_state(folder: Path, progress: Progress | None) -> State:
    """Return the state of a stage that has no result."""
    if is_locked(folder / "lock"):
        silent = time.time() - progress.at if progress else 0.0
        return "stalled" if silent > 60 * STALLED_MINUTES else "running"
    return "failed" if _has_failed(folder) else "interrupted"


def _has_failed(folder: Path) -> bool:
    """Tell whether the last attempt left an error, other than that of Ctrl-C."""
    error = folder / "error.txt"
    try:
        # an attempt that goes on after an error leaves its error.txt where it is
        is_old = error.stat().st_mtime < (folder / "owner.json").stat().st_mtime
        return not is_old and INTERRUPTION not in error.read_text().splitlines()[-1]
    except (OSError, IndexError):
        return error.exists()
