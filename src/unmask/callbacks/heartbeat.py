"""Say how far a training is, to whoever looks at its folder from outside."""

import time
from pathlib import Path
from typing import Any

import lightning as L

from unmask.stages.progress import Progress, write_progress

# seconds between two writes
EVERY_SECONDS = 10.0


class Heartbeat(L.Callback):
    """Write progress.json after the first step, and every ten seconds from then on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.start_step = 0
        self.start_time = 0.0
        self.written_at = -EVERY_SECONDS

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.start_step = trainer.global_step
        self.start_time = time.monotonic()
        self.written_at = self.start_time - EVERY_SECONDS

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        # a step whose gradients are still accumulating says nothing of the speed
        if trainer.global_step > self.start_step:
            self._beat(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._beat(trainer)

    def _beat(self, trainer: L.Trainer) -> None:
        now = time.monotonic()
        if now - self.written_at < EVERY_SECONDS or not trainer.is_global_zero:
            return
        self.written_at = now
        self._write(trainer, now)

    def _write(self, trainer: L.Trainer, now: float) -> None:
        progress = Progress(
            trainer.global_step,
            int(trainer.max_steps),
            self.start_step,
            round(now - self.start_time, 3),
            time.time(),
        )
        write_progress(self.folder, progress)

    def on_exception(self, trainer: L.Trainer, *_: Any) -> None:
        # where it stopped; before its first step it has nothing to say
        if trainer.is_global_zero and self.start_time:
            self._write(trainer, time.monotonic())
