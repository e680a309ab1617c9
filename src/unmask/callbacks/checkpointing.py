"""Checkpoints while training, and leaving in good order when asked to."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from unmask.callbacks.checkpoint_writer import CheckpointWriter
from unmask.data.loading.batch import Batch
from unmask.distributed import collectives
from unmask.distributed.processes import (
    PREEMPTED,
    SIGNALS,
    received_signals,
    time_limit,
)
from unmask.storage import checkpoints


class Preempted(SystemExit):
    """Asked to leave; everything up to this step is saved."""

    def __init__(self) -> None:
        super().__init__(PREEMPTED)


@contextmanager
def leaving_when_asked(minutes: float | None = None) -> Iterator[None]:
    """Outside of fits a signal raises Preempted at once; within one the Keeper saves first.

    Who was asked once is leaving: further signals are ignored then, so that the exit code stays. After `minutes` this
    process asks itself.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        received_signals.append(number)
        raise Preempted

    received_signals.clear()
    main = threading.current_thread() is threading.main_thread()
    before = (
        {number: signal.signal(number, leave) for number in SIGNALS} if main else {}
    )
    try:
        with time_limit(minutes):
            yield
    except Preempted:
        before = dict.fromkeys(before, signal.SIG_IGN)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Cadence(NamedTuple):
    """When to save, and whether to keep the best weights too."""

    every_minutes: float | None
    every_steps: int | None
    best: bool


class Checkpointing(L.Callback):
    """Saves at optimiser steps, by minutes or by steps; when asked to (SIGNALS) saves and exits with 75.

    fault: tells, in any of the processes, what is to end the training with an error once it is saved.

    An epoch's last batch is not saved at (its successor is): there Lightning's loop is between two epochs, and
    whether it validates after a resume would depend on when it was killed.
    """

    def __init__(
        self,
        folder: Path,
        io: CheckpointWriter,
        cadence: Cadence,
        about: dict[str, Any],
        fault: Callable[[], Exception | None] = lambda: None,
    ) -> None:
        self.folder, self.io, self.cadence, self.about, self.fault = (
            folder,
            io,
            cadence,
            about,
            fault,
        )
        self.step, self.saved_at, self.due = 0, time.monotonic(), False
        self.previous: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.step, self.saved_at = trainer.global_step, time.monotonic()
        if threading.current_thread() is threading.main_thread():
            self.previous = {
                number: signal.signal(number, self._ask) for number in SIGNALS
            }

    def _ask(self, number: int, frame: FrameType | None) -> None:
        received_signals.append(number)
        if len(received_signals) > 1 and number == signal.SIGINT:
            raise KeyboardInterrupt

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        if trainer.global_step == self.step:
            return  # gradients are being accumulated, and no checkpoint holds them
        self.step = trainer.global_step
        self.io.tell()
        minutes, steps = self.cadence.every_minutes, self.cadence.every_steps
        self.due |= bool(minutes and time.monotonic() - self.saved_at >= 60 * minutes)
        self.due |= bool(steps and self.step % steps == 0)
        # clocks differ, and one may be asked alone; also before the fit: Python drops
        # what a handler raises within a
        # destructor or another library's hook
        self.due, asked, faulty = collectives.any_rank(
            self.due, bool(received_signals), bool(self.fault())
        )
        between_epochs = (
            batch_idx + 1
            == trainer.num_training_batches
            > trainer.accumulate_grad_batches
        )
        if (self.due or asked or faulty) and not between_epochs:
            self._save(
                trainer, float(collectives.all_reduce_mean(outputs["loss"].detach()))
            )
            if asked or faulty:
                # who leaves before the one that writes would have it ended
                collectives.on_rank_zero(self.io.wait)
                self._leave(faulty)

    def _leave(self, faulty: bool) -> None:
        """All processes together; with an error in the words of the first that has some."""
        fault = collectives.first_non_none(self.fault()) if faulty else None
        raise fault or Preempted()

    def on_validation_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> None:
        """Keep the weights that are the best so far; those of the end are the result, as in the paper."""
        score = score_of(trainer.callback_metrics)
        if (
            score is None
            or not self.cadence.best
            or trainer.state.fn != TrainerFn.FITTING
        ):
            return
        if collectives.on_rank_zero(lambda: self._improved(score)):
            content = {
                "state_dict": trainer.strategy.lightning_module_state_dict(),
                "global_step": trainer.global_step,
                "unmask": self.about,
            }
            if collectives.is_rank_zero():
                self.io.save_best(content, self.folder, score)

    def _improved(self, score: dict[str, float]) -> bool:
        self.io.wait()  # the best one before may not be written yet
        return checkpoints.is_best(self.folder, score)

    def _save(self, trainer: L.Trainer, loss: float) -> None:
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the training loss is {loss} at step {self.step}; no checkpoint was"
                " written"
            )
        trainer.save_checkpoint(self.folder / "checkpoint")
        self.saved_at, self.due = time.monotonic(), False

    def on_load_checkpoint(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Lightning counts micro-batches: with another number of them a step would be another place in the data.

        All checkpoints are of optimiser steps, so that their counts can be told in the new number; of the last
        micro-batch Lightning has yet to count that it is completed.
        """
        of, ours = checkpoint["unmask"]["fingerprint"], self.about["fingerprint"]
        if of != ours:
            raise ValueError(
                f"{self.folder} holds a checkpoint of the run {of}, and this is {ours};"
                " remove it"
            )
        before, now = checkpoint["unmask"]["accumulate"], self.about["accumulate"]
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["current"], progress["total"]):
            behind = counts["ready"] - counts["completed"]
            counts.update(
                {name: count * now // before for name, count in counts.items()}
            )
            counts["completed"] = counts["ready"] - behind

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not all(
            bool(parameter.isfinite().all()) for parameter in pl_module.parameters()
        ):
            raise FloatingPointError(
                f"weights are not finite after step {self.step}; no final checkpoint"
                " was written"
            )
        self.io.wait()
        newest = collectives.on_rank_zero(lambda: checkpoints.newest(self.folder))
        if newest is None or newest.name != f"step={trainer.global_step:08d}.ckpt":
            trainer.save_checkpoint(self.folder / "checkpoint")
            self.io.wait()
        if collectives.is_rank_zero():
            checkpoints.prune(self.folder)
        asked, faulty = collectives.any_rank(bool(received_signals), bool(self.fault()))
        # at the very last step: the stage is as good as done, but the run was asked to
        # leave
        if asked or faulty:
            self._leave(faulty)

    def on_save_checkpoint(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        checkpoint["unmask"] = self.about

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        with suppress(OSError):  # the first fault must not be hidden by another
            self.io.wait()
        # Lightning does not tear down after an exception
        self.teardown(trainer, pl_module, "fit")

    def teardown(
        self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str
    ) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}


def score_of(metrics: Mapping[str, Any]) -> dict[str, float] | None:
    """What tells better weights from worse: accuracy where there is one, else the loss; None if it is not finite."""
    for name in ("val/accuracy", "val/loss"):
        if name in metrics and math.isfinite(float(metrics[name])):
            return {name: float(metrics[name])}
    return None
