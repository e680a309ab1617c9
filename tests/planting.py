"""Faults put into training runs of the tests, on purpose."""

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from small_runs import run
from unmask.callbacks.nonfinite import NonfiniteGuard
from unmask.callbacks.progress import StageProgress
from unmask.data.loading import module as data_module


def stopped(runs: Path, *overrides: str) -> tuple[Path, str]:
    """The folder of the record that a run leaves, and what it says."""
    with pytest.raises(FloatingPointError) as error:
        run(f"runs_dir={runs}", *overrides)
    (folder,) = runs.glob("*/*/nonfinite")
    return folder, str(error.value)


def infinite_gradient(patch: pytest.MonkeyPatch, step: int) -> None:
    """The loss of that step (the first is 1) is what it is, and its gradient infinite."""
    original = NonfiniteGuard.on_before_backward

    def planted(
        self: NonfiniteGuard,
        trainer: L.Trainer,
        module: L.LightningModule,
        loss: Tensor,
    ) -> None:
        original(self, trainer, module, loss)
        if trainer.global_step == step - 1:
            loss.register_hook(lambda gradient: gradient * math.inf)

    patch.setattr(NonfiniteGuard, "on_before_backward", planted)


def infinite_weight(patch: pytest.MonkeyPatch, step: int) -> None:
    """One weight of the decoder's head is infinite when that step of a pretraining begins."""
    original = StageProgress.on_train_batch_end

    def planted(
        self: StageProgress, trainer: L.Trainer, module: Any, *args: Any
    ) -> None:
        original(self, trainer, module, *args)
        if trainer.global_step == step - 1:
            module.model.decoder.head.weight.data[0, 0] = math.inf

    patch.setattr(StageProgress, "on_train_batch_end", planted)


def broken_image(patch: pytest.MonkeyPatch, sample: int) -> None:
    """A training image with a pixel that is not a number, as no uint8 can be."""
    original = data_module.ImageData._prepared

    def planted(
        self: data_module.ImageData, batch: data_module.Batch, again: bool
    ) -> data_module.Batch:
        batch = original(self, batch, again)
        if again or (self.trainer and self.trainer.training):
            batch.images_BCHW[batch.ids_B == sample, 0, 0, 0] = torch.nan
        return batch

    patch.setattr(data_module.ImageData, "_prepared", planted)
