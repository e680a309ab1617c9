"""Checkpoints while training, and leaving in good order when asked to."""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.fabric.plugins import CheckpointIO

from unmask import checkpoints, collectives
from unmask.data.module import Batch
from unmask.processes import PREEMPTED, SIGNALS


class Preempted(SystemExit):
    """Asked to leave; everything up to this step is saved."""

    def __init__(self) -> None:
        super().__init__(PREEMPTED)


@contextmanager
def leaving_when_asked() -> Iterator[None]:
    """Outside of fits a signal raises Preempted at once; within one the Keeper saves first.

    Who was asked once is leaving: further signals are ignored then, so that the exit code stays.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        raise Preempted

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, leave) for number in SIGNALS} if main else {}
    try:
        yield
    except Preempted:
        before = dict.fromkeys(before, signal.SIG_IGN)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class SafeIO(CheckpointIO):
    """Lightning's checkpoints through unmask.checkpoints: atomic, hashed, read with weights_only."""

    def __init__(self, keep: int) -> None:
        self.keep = keep

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        checkpoints.save(checkpoint, Path(path).parent, int(checkpoint["global_step"]), self.keep)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return checkpoints.load(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class Keeper(L.Callback):
    """Saves at optimiser steps, by minutes or by steps; on SIGTERM, SIGINT or SIGUSR1 saves and exits with 75.

    An epoch's last batch is not saved at (its successor is): there Lightning's loop is between two epochs, and
    whether it validates after a resume would depend on when it was killed.
    """

    def __init__(
        self, folder: Path, every_minutes: float | None, every_steps: int | None, about: dict[str, Any]
    ) -> None:
        self.folder, self.every_minutes, self.every_steps, self.about = folder, every_minutes, every_steps, about
        self.step, self.saved_at, self.due, self.asked = 0, time.monotonic(), False, 0
        self.previous: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.step, self.saved_at = trainer.global_step, time.monotonic()
        if threading.current_thread() is threading.main_thread():
            self.previous = {number: signal.signal(number, self._ask) for number in SIGNALS}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked += 1
        if self.asked > 1 and number == signal.SIGINT:
            raise KeyboardInterrupt

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            return  # gradients are being accumulated, and no checkpoint holds them
        self.step = trainer.global_step
        minutes = (time.monotonic() - self.saved_at) / 60
        self.due |= bool(self.every_minutes and minutes >= self.every_minutes)
        self.due |= bool(self.every_steps and self.step % self.every_steps == 0)
        self.due, asked = collectives.anywhere(self.due, self.asked > 0)  # clocks differ, and one may be asked alone
        between_epochs = batch_idx + 1 == trainer.num_training_batches > trainer.accumulate_grad_batches
        if (self.due or asked) and not between_epochs:
            self._save(trainer, float(collectives.mean(outputs["loss"].detach())))
            if asked:
                raise Preempted

    def _save(self, trainer: L.Trainer, loss: float) -> None:
        if not math.isfinite(loss):
            raise FloatingPointError(f"the training loss is {loss} at step {self.step}; no checkpoint was written")
        trainer.save_checkpoint(self.folder / "checkpoint")
        self.saved_at, self.due = time.monotonic(), False

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Lightning counts micro-batches: with another number of them a step would be another place in the data.

        All checkpoints are of optimiser steps, so that their counts can be told in the new number; of the last
        micro-batch Lightning has yet to count that it is completed.
        """
        of, ours = checkpoint["unmask"]["fingerprint"], self.about["fingerprint"]
        if of != ours:
            raise ValueError(f"{self.folder} holds a checkpoint of the run {of}, and this is {ours}; remove it")
        before, now = checkpoint["unmask"]["accumulate"], self.about["accumulate"]
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["current"], progress["total"]):
            behind = counts["ready"] - counts["completed"]
            counts.update({name: count * now // before for name, count in counts.items()})
            counts["completed"] = counts["ready"] - behind

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not all(bool(parameter.isfinite().all()) for parameter in pl_module.parameters()):
            raise FloatingPointError(f"weights are not finite after step {self.step}; no final checkpoint was written")
        newest = collectives.led(lambda: checkpoints.newest(self.folder))
        if newest is None or newest.name != f"step={trainer.global_step:08d}.ckpt":
            trainer.save_checkpoint(self.folder / "checkpoint")
        if collectives.leads():
            checkpoints.prune(self.folder)
        (asked,) = collectives.anywhere(self.asked > 0)
        if asked:  # at the very last step: the stage is as good as done, but the run was asked to leave
            raise Preempted

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["unmask"] = self.about

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")  # Lightning does not tear down after an exception

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}
