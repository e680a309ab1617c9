"""Show the progress of a stage: steps, loss, images per second, time left."""

import time
from collections.abc import Callable
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
from torch import Tensor

# Seconds between two updates of the bar; each reads the loss off the device.
REFRESH_SECONDS = 0.25
# Seconds between two lines where there is no terminal.
LINE_SECONDS = 20.0


class StageProgress(L.Callback):
    """Show one bar for the whole stage, or plain lines without a terminal.

    The bar spans all epochs, so that the time left is the stage's.
    """

    def __init__(
        self,
        title: str,
        batch_size: int,
        steps_per_epoch: int,
        console: Console,
        get_loss: Callable[[], Tensor | float],
    ) -> None:
        """Show the loss that `get_loss` returns, that of the last step."""
        self.title = title
        self.get_loss = get_loss
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.console = console
        self.bar: Progress | None = None
        self.step = 0
        # Where this attempt began; a resumed one does not begin at step 0.
        self.start_step = 0
        self.start_time = 0.0
        self.updated_at = 0.0

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.step = self.start_step = trainer.global_step
        self.start_time = time.monotonic()
        # So that the first step is shown: it says how long the rest takes.
        self.updated_at = self.start_time - LINE_SECONDS
        if self.step:
            self.console.print(
                f"{self.title}: continuing at step {self.step:,} of"
                f" {trainer.max_steps:,}"
            )
        if self.console.is_terminal and trainer.is_global_zero:
            self._start_bar(trainer.max_steps)

    def _start_bar(self, max_steps: int) -> None:
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
            self.title, total=max_steps, completed=self.step, facts=""
        )
        self.bar.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any
    ) -> None:
        self.step = trainer.global_step
        now = time.monotonic()
        # The first step is still accumulating gradients: no speed is known yet.
        if self.step == self.start_step:
            return
        if now - self.updated_at < (REFRESH_SECONDS if self.bar else LINE_SECONDS):
            return
        self.updated_at = now
        seconds = max(now - self.start_time, 1e-9)
        steps_per_second = (self.step - self.start_step) / seconds
        loss = float(self.get_loss())
        epoch = self.step / self.steps_per_epoch
        facts = (
            f"epoch {epoch:.1f}  loss {loss:.4f}"
            f"  {steps_per_second * self.batch_size:,.0f} images/s"
        )
        if self.bar:
            self.bar.update(self.task, completed=self.step, facts=facts)
        elif trainer.is_global_zero:
            left = (trainer.max_steps - self.step) / max(steps_per_second, 1e-9)
            line = (
                f"{self.title}: step {self.step:,}/{trainer.max_steps:,}  {facts}  eta"
                f" {timedelta(seconds=round(left))}"
            )
            self.console.print(line, soft_wrap=True)

    def teardown(self, *_: Any, **__: Any) -> None:
        if self.bar:
            self.bar.update(self.task, completed=self.step)
            self.bar.stop()
            self.bar = None

    # Lightning does not call teardown after an exception.
    on_exception = teardown
