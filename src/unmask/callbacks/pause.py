"""Pause a training at an exact step, to be killed there or released.

src/verify.py interrupts runs in this way.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import lightning as L

from unmask.callbacks.checkpoint_writer import CheckpointWriter
from unmask.distributed import collectives

# JSON with the stage (kind/fingerprint), the step (null: none) and the folder for the
# files of PauseAtStep.
PAUSE_VARIABLE = "UNMASK_HOLD"
# Seconds until a pause ends by itself: whoever asked for it may be gone.
MAX_PAUSE = 120.0
POLL_SECONDS = 0.01


class PauseAtStep(L.Callback):
    """Pause after a step, before its checkpoint, to be killed there or released.

    The process writes its number into pid<rank>, and creates held<rank> when it pauses;
    it is released by the removal of that file.
    """

    def __init__(
        self, folder: Path, step: int | None, writer: CheckpointWriter
    ) -> None:
        self.folder = folder
        self.step = step
        self.writer = writer

    def on_train_start(self, *_: Any) -> None:
        (self.folder / f"pid{collectives.rank()}").write_text(str(os.getpid()))

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step != self.step:
            return
        # Once is enough: later micro-batches of a step have the same number.
        self.step = None
        deadline = time.monotonic() + MAX_PAUSE
        # Earlier checkpoints must be on the disk: whoever kills this process knows then
        # where the run goes on.
        self.writer.wait()
        held = self.folder / f"held{collectives.rank()}"
        held.touch()
        while held.exists() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


def requested_pause(stage: Path, writer: CheckpointWriter) -> list[L.Callback]:
    """Return a PauseAtStep if the environment asks for one in this stage, else none."""
    request = json.loads(os.environ.get(PAUSE_VARIABLE, "{}"))
    if not request or Path(request["stage"]).parts != stage.parts[-2:]:
        return []
    return [PauseAtStep(Path(request["folder"]), request["step"], writer)]
