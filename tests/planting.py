"""Faults that tests put into training runs."""

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


def run_until_stopped(runs: Path, *overrides: str) -> tuple[Path, str]:
    """Run until a non-finite step; return the folder of its record and the message."""
    with pytest.raises(FloatingPointError) as error:
        run(f"runs_dir={runs}", *overrides)
    (folder,) = runs.glob("*/*/nonfinite")
    return folder, str(error.value)


def infinite_gradient(patch: pytest.MonkeyPatch, step: int) -> None:
    """Make the gradient of that step (the first is 1) infinite, but not its loss."""
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
    """Make a weight of the decoder's head infinite before that pretraining step."""
    original = StageProgress.on_train_batch_end

    def planted(
        self: StageProgress, trainer: L.Trainer, module: Any, *args: Any
    ) -> None:
        original(self, trainer, module, *args)
        if trainer.global_step == step - 1:
            module.model.decoder.head.weight.data[0, 0] = math.inf

    patch.setattr(StageProgress, "on_train_batch_end", planted)


def broken_image(patch: pytest.MonkeyPatch, sample: int) -> None:
    """Make a pixel of a training image not a number, after decoding."""
    original = data_module.ImageData._prepare

    def planted(
        self: data_module.ImageData, batch: data_module.Batch, again: bool
    ) -> data_module.Batch:
        batch = original(self, batch, again)
        if again or (self.trainer and self.trainer.training):
            batch.images_BCHW[batch.ids_B == sample, 0, 0, 0] = torch.nan
        return batch

    patch.setattr(data_module.ImageData, "_prepare", planted)
