"""One bar a stage: steps, loss, images per second, time left; plain lines where there is no terminal."""

import time
from datetime import timedelta
from typing import Any

import lightning as L
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from unmask.data.loading.batch import Batch

REFRESH = 0.25  # seconds; each refresh reads the loss from the device
LINE_EVERY = 20.0  # seconds between lines without a terminal


class StageProgress(L.Callback):
    """Shows the whole stage, epochs included, so that the time left is the stage's."""

    def __init__(
        self, title: str, batch_size: int, steps_per_epoch: int, console: Console
    ) -> None:
        self.title, self.batch_size, self.steps_per_epoch, self.console = (
            title,
            batch_size,
            steps_per_epoch,
            console,
        )
        self.bar: Progress | None = None
        self.shown, self.step, self.start_step, self.start = 0.0, 0, 0, 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.step = self.start_step = trainer.global_step
        self.start = time.monotonic()
        # the first step is shown: it says how long the rest takes
        self.shown = self.start - LINE_EVERY
        if self.step:
            self.console.print(
                f"{self.title}: continuing at step {self.step:,} of"
                f" {trainer.max_steps:,}"
            )
        if self.console.is_terminal and trainer.is_global_zero:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[facts]}"),
                TimeElapsedColumn(),
                TextColumn("eta"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.task = self.bar.add_task(
                self.title, total=trainer.max_steps, completed=self.step, facts=""
            )
            self.bar.start()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        self.step = trainer.global_step
        now = time.monotonic()
        if self.step == self.start_step:
            # gradients are being accumulated for the first step: nobody knows yet how
            # long the rest takes
            return
        if now - self.shown < (REFRESH if self.bar else LINE_EVERY):
            return
        self.shown = now
        rate = (self.step - self.start_step) / max(now - self.start, 1e-9)
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        epoch = self.step / self.steps_per_epoch
        facts = (
            f"epoch {epoch:.1f}  loss {loss:.4f}  {rate * self.batch_size:,.0f}"
            " images/s"
        )
        if self.bar:
            self.bar.update(self.task, completed=self.step, facts=facts)
        elif trainer.is_global_zero:
            left = (trainer.max_steps - self.step) / max(rate, 1e-9)
            line = (
                f"{self.title}: step {self.step:,}/{trainer.max_steps:,}  {facts}  eta"
                f" {timedelta(seconds=round(left))}"
            )
            self.console.print(line, soft_wrap=True)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self.teardown(trainer, pl_module, "fit")

    def teardown(
        self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str
    ) -> None:
        if self.bar:
            self.bar.update(self.task, completed=self.step)
            self.bar.stop()
            self.bar = None
