"""Waiting at a given step for a signal from outside: src/verify.py interrupts a run exactly where it means to."""

import json
import os
import time
from pathlib import Path
from typing import Any

import lightning as L

from unmask import collectives
from unmask.callbacks.background import BackgroundIO
from unmask.data.batch import Batch

HOLD = "UNMASK_HOLD"  # stage (kind/fingerprint), step (null: none) and folder, told by the environment
LONGEST = 120.0  # seconds: whoever asked may be gone
POLL = 0.01


class Hold(L.Callback):
    """Tells its process number, and after `step`, before anything is saved of it, waits to be killed or let go.

    Who is let go sees its file held<rank> gone.
    """

    def __init__(self, folder: Path, step: int | None, io: BackgroundIO) -> None:
        self.folder, self.step, self.io = folder, step, io

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        (self.folder / f"pid{collectives.rank()}").write_text(str(os.getpid()))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.global_step != self.step:
            return
        self.step, deadline = None, time.monotonic() + LONGEST
        self.io.wait()  # what was saved before is on the disk: who kills knows where the run goes on
        (held := self.folder / f"held{collectives.rank()}").touch()
        while held.exists() and time.monotonic() < deadline:
            time.sleep(POLL)


def asked_to_hold(stage: Path, io: BackgroundIO) -> list[L.Callback]:
    """One that holds in this stage, where the environment asks for it."""
    asked = json.loads(os.environ.get(HOLD, "{}"))
    if not asked or Path(asked["stage"]).parts != stage.parts[-2:]:
        return []
    return [Hold(Path(asked["folder"]), asked["step"], io)]
