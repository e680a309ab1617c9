"""metrics.jsonl: one line a log, append-only, cut back to the checkpoint on resume; mirrors show it."""

import math
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import torch

from unmask.callbacks.dashboards import Dashboards
from unmask.data.loading.batch import Batch
from unmask.distributed import collectives
from unmask.storage.metrics_log import append, read, truncate_after

EVERY = 50  # optimiser steps between two lines, fewer where an epoch is shorter


class MetricsLogger(L.Callback):
    """Mean training loss over each window, the learning rate, images per second, and what validation logs.

    The running window is part of the checkpoint, so a resumed run writes the lines an undisturbed one does
    (but for images_per_second).
    """

    def __init__(
        self,
        folder: Path,
        batch_size: int,
        steps_per_epoch: int,
        mirrors: Dashboards | None = None,
        counts: Callable[[int], dict[str, float]] = lambda step: {},
    ) -> None:
        """counts: what else to write down at the end of each window, by its step."""
        self.mirrors, self.counts = mirrors or Dashboards(), counts
        self.path, self.batch_size, self.steps_per_epoch = (
            folder / "metrics.jsonl",
            batch_size,
            steps_per_epoch,
        )
        self.every = min(EVERY, steps_per_epoch)
        self.total: torch.Tensor | float = 0.0
        self.count, self.step = 0, 0
        self.clock, self.clock_step = time.perf_counter(), 0
        # earlier: seconds before the checkpoint this fit goes on from
        self.began, self.earlier = self.clock, 0.0

    @property
    def state_key(self) -> str:
        """Name its state in checkpoints as 0.1 did, whose runs go on."""
        return "Journal"

    def state_dict(self) -> dict[str, float]:
        seconds = self.earlier + time.perf_counter() - self.began
        return {"total": float(self.total), "count": self.count, "seconds": seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.total, self.count = state_dict["total"], int(state_dict["count"])
        self.earlier = state_dict["seconds"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.step = self.clock_step = trainer.global_step
        self.clock = time.perf_counter()
        if trainer.is_global_zero:
            truncate_after(self.path, trainer.global_step)
            self.mirrors.begin(read(self.path))

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        self.total = self.total + collectives.all_reduce_mean(
            outputs["loss"].detach().float()
        )
        if trainer.global_step > self.step:
            self.step = trainer.global_step
            self.count += 1
            if self.step % self.every == 0:
                self._log_window(trainer)

    def _log_window(self, trainer: L.Trainer) -> None:
        # Lightning divides the loss by the accumulated micro-batches before it reaches
        # callbacks
        loss = float(self.total) / self.count
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the training loss is {loss} within the {self.every} steps before step"
                f" {self.step}; lower base_lr, lengthen warmup_epochs, or look at the"
                " images of these steps"
            )
        now = time.perf_counter()
        speed = (
            (self.step - self.clock_step)
            * self.batch_size
            / max(now - self.clock, 1e-9)
        )
        self.total, self.count, self.clock, self.clock_step = 0.0, 0, now, self.step
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self._write(
            trainer,
            {
                "train/loss": loss,
                "lr": rate,
                "images_per_second": round(speed, 1),
                **self.counts(self.step),
            },
        )

    def on_validation_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> None:
        # a stage that was killed after its last step validates without training
        self.step = trainer.global_step
        measured = {
            key: float(value)
            for key, value in trainer.callback_metrics.items()
            if key.startswith("val/")
        }
        if trainer.is_global_zero:
            rows = read(self.path)
            self.mirrors.begin(rows)
            if not any(row["step"] == self.step and "val/loss" in row for row in rows):
                self._write(trainer, measured)
        # speed is that of training alone
        self.clock, self.clock_step = time.perf_counter(), self.step

    def _write(self, trainer: L.Trainer, values: dict[str, float]) -> None:
        row = {
            "step": self.step,
            "epoch": round(self.step / self.steps_per_epoch, 4),
            **values,
        }
        if trainer.is_global_zero:
            append(self.path, row)
            self.mirrors.log(row)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self.teardown(trainer, pl_module, "fit")

    def teardown(
        self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str
    ) -> None:
        if trainer.is_global_zero and self.path.exists():
            # a mirror: on a full disk the journal's own error is the one to tell
            with suppress(OSError):
                pd.DataFrame(read(self.path)).to_csv(
                    self.path.with_suffix(".csv"), index=False
                )
