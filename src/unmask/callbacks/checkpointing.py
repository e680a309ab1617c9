"""Save checkpoints while training, and exit in good order when preempted."""

import math
import signal
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
    handle_stop_signals,
    received_signals,
    restore_handlers,
    time_limit,
)
from unmask.storage import checkpoints


class Preempted(SystemExit):
    """Exit with code 75: everything up to this step is saved, run me again."""

    def __init__(self) -> None:
        super().__init__(PREEMPTED)


@contextmanager
def preemptible(minutes: float | None = None) -> Iterator[None]:
    """Raise Preempted where a signal asks this process to save and exit.

    Within a fit Checkpointing takes over, and saves first. After the first signal
    further ones are ignored, so that the exit code stays. minutes: how long until this
    process preempts itself; None: never.
    """

    def raise_preempted(number: int, frame: FrameType | None) -> None:
        received_signals.append(number)
        raise Preempted

    received_signals.clear()
    earlier_handlers = handle_stop_signals(raise_preempted)
    try:
        with time_limit(minutes):
            yield
    except Preempted:
        earlier_handlers = dict.fromkeys(earlier_handlers, signal.SIG_IGN)
        raise
    finally:
        restore_handlers(earlier_handlers)


class Cadence(NamedTuple):
    """When to save a checkpoint, and whether to keep the best weights too."""

    every_minutes: float | None
    every_steps: int | None
    best: bool


class Checkpointing(L.Callback):
    """Save after optimiser steps; when preempted (STOP_SIGNALS), save and exit with 75.

    get_fault: returns an error that is to end the training once it is saved; one rank
    is enough. metadata: what each checkpoint says of its stage.

    Nothing is saved after an epoch's last step (but after the next one): there
    Lightning's loop is between two epochs, and whether it validates after a resume
    would depend on when the run was killed.
    """

    def __init__(
        self,
        folder: Path,
        writer: CheckpointWriter,
        cadence: Cadence,
        metadata: dict[str, Any],
        get_fault: Callable[[], Exception | None] = lambda: None,
    ) -> None:
        self.folder = folder
        self.writer = writer
        self.cadence = cadence
        self.metadata = metadata
        self.get_fault = get_fault
        self.step = 0
        self.saved_at = time.monotonic()
        self.is_due = False
        self.earlier_handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.step = trainer.global_step
        self.saved_at = time.monotonic()
        self.earlier_handlers = handle_stop_signals(self._note_signal)

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        received_signals.append(number)
        # A second Ctrl-C does not wait for the end of the step.
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
        # Gradients are still being accumulated, and no checkpoint holds them.
        if trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        self.writer.raise_if_failed()
        self.is_due |= self._is_time_to_save()
        # Clocks differ, and a signal or a fault may have come to one rank alone.
        # Signals from before the fit count too: Python drops what a handler raises
        # within a destructor or another library's hook.
        self.is_due, preempted, faulty = collectives.any_rank(
            self.is_due, bool(received_signals), bool(self.get_fault())
        )
        if not (self.is_due or preempted or faulty):
            return
        if _is_between_epochs(trainer, batch_idx):
            return
        loss = float(collectives.all_reduce_mean(outputs["loss"].detach()))
        self._save(trainer, loss)
        if preempted or faulty:
            # If another rank exited first, the launcher would end rank zero while it
            # writes.
            collectives.on_rank_zero(self.writer.wait)
            self._exit(faulty)

    def _is_time_to_save(self) -> bool:
        minutes, steps = self.cadence.every_minutes, self.cadence.every_steps
        if minutes and time.monotonic() - self.saved_at >= 60 * minutes:
            return True
        return bool(steps and self.step % steps == 0)

    def _exit(self, faulty: bool) -> None:
        """Raise the same error on all ranks: the first rank's fault, or Preempted."""
        fault = collectives.first_non_none(self.get_fault()) if faulty else None
        if fault is None:
            # The launcher asks the other ranks to leave when the first has ended: this
            # one is leaving already, and no second signal may disturb it.
            self.earlier_handlers = dict.fromkeys(self.earlier_handlers, signal.SIG_IGN)
        raise fault or Preempted()

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Save the weights if they are the best so far.

        They are an extra: a stage's result is its final weights, as in the paper.
        """
        score = selection_score(trainer.callback_metrics)
        if score is None or not self.cadence.best:
            return
        # The final validation comes after the fit.
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if collectives.on_rank_zero(lambda: self._is_best(score)):
            # On all ranks: where weights are sharded, each gives its share.
            content = {
                "state_dict": trainer.strategy.lightning_module_state_dict(),
                "global_step": trainer.global_step,
                "unmask": self.metadata,
            }
            if collectives.is_rank_zero():
                self.writer.save_best(content, self.folder, score)

    def _is_best(self, score: dict[str, float]) -> bool:
        # The best weights so far may not be on the disk yet.
        self.writer.wait()
        return checkpoints.is_new_best(self.folder, score)

    def _save(self, trainer: L.Trainer, loss: float) -> None:
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the training loss is {loss} at step {self.step}; no checkpoint was"
                " written"
            )
        trainer.save_checkpoint(self.folder / "checkpoint")
        self.saved_at = time.monotonic()
        self.is_due = False

    def on_load_checkpoint(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Convert Lightning's counts to this run's number of micro-batches a step.

        Lightning counts micro-batches: with another number of them a step would be at
        another place in the data. Raises ValueError for another run's checkpoint.
        """
        stored, current = checkpoint["unmask"], self.metadata
        if stored["fingerprint"] != current["fingerprint"]:
            raise ValueError(
                f"{self.folder} holds a checkpoint of the run {stored['fingerprint']},"
                f" and this run is {current['fingerprint']}; remove that folder to"
                " train again"
            )
        before, now = stored["accumulate"], current["accumulate"]
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["current"], progress["total"]):
            # Checkpoints are saved after whole steps, so the division is exact, but
            # for the last micro-batch: Lightning has yet to count it as completed.
            behind = counts["ready"] - counts["completed"]
            for name, count in counts.items():
                counts[name] = count * now // before
            counts["completed"] = counts["ready"] - behind

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        parameters = pl_module.parameters()
        if not all(bool(parameter.isfinite().all()) for parameter in parameters):
            raise FloatingPointError(
                f"weights are not finite after step {self.step}; no final checkpoint"
                " was written"
            )
        self.writer.wait()
        newest = collectives.on_rank_zero(lambda: checkpoints.newest(self.folder))
        if newest is None or newest.name != f"step={trainer.global_step:08d}.ckpt":
            trainer.save_checkpoint(self.folder / "checkpoint")
            self.writer.wait()
        if collectives.is_rank_zero():
            checkpoints.keep_only_newest(self.folder)
        # The training is complete, but its run was asked to exit during the last step.
        preempted, faulty = collectives.any_rank(
            bool(received_signals), bool(self.get_fault())
        )
        if preempted or faulty:
            self._exit(faulty)

    def on_save_checkpoint(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        checkpoint["unmask"] = self.metadata

    def on_exception(self, trainer: L.Trainer, *_: Any) -> None:
        # The first error must not be hidden by a second one.
        with suppress(OSError):
            self.writer.wait()
        # Lightning does not call teardown after an exception.
        self.teardown()

    def teardown(self, *_: Any, **__: Any) -> None:
        restore_handlers(self.earlier_handlers)
        self.earlier_handlers = {}


def _is_between_epochs(trainer: L.Trainer, batch_idx: int) -> bool:
    """Tell whether this was the last step of an epoch of several steps."""
    batches = trainer.num_training_batches
    return batch_idx + 1 == batches and batches > trainer.accumulate_grad_batches


def selection_score(metrics: Mapping[str, Any]) -> dict[str, float] | None:
    """Return what tells better weights from worse: the accuracy, else the loss.

    None if there is neither, or it is not finite.
    """
    for name in ("val/accuracy", "val/loss"):
        if name in metrics and math.isfinite(float(metrics[name])):
            return {name: float(metrics[name])}
    return None
