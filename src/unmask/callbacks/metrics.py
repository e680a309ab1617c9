"""Write metrics.jsonl, the stage's metrics log, and show its rows on dashboards.

The log is append-only; a resume cuts it back to the checkpoint.
"""

import math
import resource
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import torch

from unmask.callbacks.progress import PeakSpeed
from unmask.config.hardware import GIB
from unmask.dashboards.process import Dashboards
from unmask.distributed import collectives
from unmask.storage.metrics_log import (
    append_row,
    flush_to_disk,
    read_rows,
    restore_rows,
    truncate_after,
)

# Optimiser steps between two rows; fewer where an epoch is shorter.
LOG_EVERY = 50


class MetricsLogger(L.Callback):
    """Log loss, gradient, learning rate and speed of each window, and validation.

    The loss and the gradient's norm are means over a window of steps. The window under
    way is part of the checkpoint, so a resumed run writes the rows of an undisturbed
    one, but for MACHINE_KEYS.
    """

    def __init__(
        self,
        folder: Path,
        batch_size: int,
        steps_per_epoch: int,
        dashboards: Dashboards | None = None,
        count_events: Callable[[int], dict[str, float]] = lambda step: {},
        peak_speed: PeakSpeed | None = None,
    ) -> None:
        """Log into `folder`; `count_events(step)` adds counts to each window's row.

        peak_speed: with it, the MFU is logged.
        """
        self.peak_speed = peak_speed
        self.dashboards = dashboards or Dashboards()
        self.count_events = count_events
        self.path = folder / "metrics.jsonl"
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.every = min(LOG_EVERY, steps_per_epoch)
        self.step = 0
        # The window: the sum of its losses, and its number of steps.
        self.total: torch.Tensor | float = 0.0
        self.count = 0
        # Those of the gradient, whose number checkpoints of 0.1 do not hold.
        self.norm_total: torch.Tensor | float = 0.0
        self.norm_count = 0
        # The losses of the step under way, and the loss of the last whole step: means
        # over the ranks.
        self.step_total: torch.Tensor | float = 0.0
        self.step_loss: torch.Tensor | float = math.nan
        # Where the measurement of speed began.
        self.clock = time.perf_counter()
        self.clock_step = 0
        # Seconds that earlier attempts took, up to the checkpoint.
        self.earlier_seconds = 0.0
        self.began = self.clock

    @property
    def state_key(self) -> str:
        """Return the name of this state in checkpoints of 0.1, whose runs go on."""
        return "Journal"

    def state_dict(self) -> dict[str, Any]:
        seconds = self.earlier_seconds + time.perf_counter() - self.began
        # The rows too: a power cut may spare a checkpoint and take rows below it.
        rows = ""
        if collectives.is_rank_zero() and self.path.exists():
            flush_to_disk(self.path)
            rows = self.path.read_text()
        return {
            "total": float(self.total),
            "count": self.count,
            "norm_total": float(self.norm_total),
            "norm_count": self.norm_count,
            "seconds": seconds,
            "rows": rows,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.total = state_dict["total"]
        self.count = int(state_dict["count"])
        self.norm_total = state_dict.get("norm_total", 0.0)
        self.norm_count = int(state_dict.get("norm_count", 0))
        self.earlier_seconds = state_dict["seconds"]
        if not collectives.is_rank_zero():
            return
        # Checkpoints of 0.1 hold no rows.
        if lost := restore_rows(self.path, state_dict.get("rows", "")):
            warnings.warn(
                f"{self.path} had lost {lost} rows below the checkpoint, which held"
                " them: they are back",
                stacklevel=2,
            )

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.step = trainer.global_step
        self._restart_clock(time.perf_counter())
        # the peak is the stage's own
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(trainer.strategy.root_device)
        if trainer.is_global_zero:
            truncate_after(self.path, trainer.global_step)
            self.dashboards.begin()

    def add_gradient_norm(self, norm: torch.Tensor) -> None:
        """Take the norm of a step's gradient; it stays on its device."""
        self.norm_total = self.norm_total + norm
        self.norm_count += 1

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any
    ) -> None:
        # The sum stays on the device: reading it here would make the host wait in
        # every step.
        loss = collectives.all_reduce_mean(outputs["loss"].detach().float())
        self.total = self.total + loss
        self.step_total = self.step_total + loss
        if trainer.global_step > self.step:
            self.step = trainer.global_step
            self.step_loss = self.step_total
            self.step_total = 0.0
            self.count += 1
            if self.step % self.every == 0:
                self._log_window(trainer)

    def _log_window(self, trainer: L.Trainer) -> None:
        # Lightning has divided each loss by the number of micro-batches, so that those
        # of a step sum to its loss.
        loss = float(self.total) / self.count
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the training loss is {loss} within the {self.every} steps before step"
                f" {self.step}; lower base_lr, lengthen warmup_epochs, or look at the"
                " images of these steps"
            )
        now = time.perf_counter()
        images = (self.step - self.clock_step) * self.batch_size
        speed = images / max(now - self.clock, 1e-9)
        row = {
            "train/loss": loss,
            **self._gradient_norm(),
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "images_per_second": round(speed, 1),
            **self._utilisation(speed),
            **_peak_memory(trainer.strategy.root_device),
            **self.count_events(self.step),
        }
        self.total = self.norm_total = 0.0
        self.count = self.norm_count = 0
        self._restart_clock(now)
        self._write(trainer, row)

    def _utilisation(self, speed: float) -> dict[str, float]:
        """Return the MFU, by a name of its own where the peak was measured."""
        if self.peak_speed is None:
            return {}
        key = "mfu_measured" if self.peak_speed.is_measured else "mfu"
        return {key: round(self.peak_speed.share(speed), 4)}

    def _gradient_norm(self) -> dict[str, float]:
        """Return the mean norm, if that of every step of the window is known."""
        if not self.norm_count or self.norm_count != self.count:
            return {}
        return {"gradient_norm": float(self.norm_total) / self.norm_count}

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        # A stage that was killed after its last step validates without training.
        self.step = trainer.global_step
        metrics = {
            key: float(value)
            for key, value in trainer.callback_metrics.items()
            if key.startswith(("val/", "watch/"))
        }
        if trainer.is_global_zero:
            rows = read_rows(self.path)
            self.dashboards.begin()
            # A stage validates once more after its fit, for its result.
            if not any(row["step"] == self.step and "val/loss" in row for row in rows):
                self._write(trainer, metrics)
        # The speed is that of training alone.
        self._restart_clock(time.perf_counter())

    def _restart_clock(self, now: float) -> None:
        self.clock = now
        self.clock_step = self.step

    def _write(self, trainer: L.Trainer, values: dict[str, float]) -> None:
        row = {
            "step": self.step,
            "epoch": round(self.step / self.steps_per_epoch, 4),
            **values,
        }
        if trainer.is_global_zero:
            append_row(self.path, row)
            self.dashboards.report()

    def teardown(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        if trainer.is_global_zero and self.path.exists():
            # The table is a copy: where the disk is full, the error of the log itself
            # is the one to report.
            with suppress(OSError):
                table = pd.DataFrame(read_rows(self.path))
                table.to_csv(self.path.with_suffix(".csv"), index=False)

    # Lightning does not call teardown after an exception.
    on_exception = teardown


def _peak_memory(device: torch.device) -> dict[str, float]:
    """Return the most memory so far in GiB: of this process, and of rank zero's GPU."""
    # Linux counts KiB, macOS bytes
    unit = 1 if sys.platform == "darwin" else 1024
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    peaks = {"peak_host_memory_gib": round(host / GIB, 3)}
    if device.type == "cuda":
        bytes_used = torch.cuda.max_memory_allocated(device)
        peaks["peak_memory_gib"] = round(bytes_used / GIB, 3)
    return peaks
