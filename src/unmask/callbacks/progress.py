"""Show the progress of a stage: steps, loss, images per second, time left."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

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


class PeakSpeed(NamedTuple):
    """Hold the images a second at which the devices would do nothing but products.

    is_measured: whether their FLOP/s are those that large products reach on this
    machine, or those of a data sheet.
    """

    images_per_second: float
    is_measured: bool

    @property
    def title(self) -> str:
        return "the measured product rate" if self.is_measured else "the peak"

    def share(self, images_per_second: float) -> float:
        """Return the MFU at that speed."""
        return images_per_second / self.images_per_second


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
        peak_speed: PeakSpeed | None = None,
    ) -> None:
        """Show the loss that `get_loss` returns, that of the last step.

        peak_speed: with it, the MFU is shown.
        """
        self.peak_speed = peak_speed
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
        speed = steps_per_second * self.batch_size
        facts = f"epoch {epoch:.1f}  loss {loss:.4f}  {speed:,.0f} images/s"
        if peak := self.peak_speed:
            facts += f"  MFU {100 * peak.share(speed):.0f} %"
            # beside a bar there is no room for more
            facts += "" if self.bar else f" of {peak.title}"
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
