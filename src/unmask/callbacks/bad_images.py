"""Report every unreadable image of a batch to the stage's list of bad images."""

from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from unmask.data.loading.bad_images import BadImages, SplitProgress
from unmask.data.loading.batch import Batch
from unmask.data.loading.module import EvaluationData, ImageData


class BadImageReporter(L.Callback):
    """List bad images when their batch is used, not when it is read ahead.

    So the list at a given step is the same however the images are loaded. Too many of
    them end a training through Checkpointing, which saves first, on all ranks; outside
    of training the error is raised here.
    """

    def __init__(self, bad_images: BadImages) -> None:
        self.bad_images = bad_images

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, *_: Any
    ) -> None:
        if batch.bad_images:
            data: Any = trainer.datamodule
            # Steps are counted from 1, and this one is not made yet.
            step = trainer.global_step + 1
            progress = SplitProgress("training", len(data.ids), batch.epoch, step)
            self.bad_images.record(batch.bad_images, progress)

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, *_: Any
    ) -> None:
        if batch.bad_images:
            data: Any = trainer.datamodule
            images = len(data.val_views)
            epoch, step = trainer.current_epoch, trainer.global_step
            self.bad_images.record(
                batch.bad_images, SplitProgress("validation", images, epoch, step)
            )
        self._raise_limit_error(trainer)

    def on_predict_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch.bad_images:
            data: ImageData | EvaluationData = trainer.datamodule
            self.bad_images.record(
                batch.bad_images, data.split_progress(dataloader_idx)
            )
        self._raise_limit_error(trainer)

    def _raise_limit_error(self, trainer: L.Trainer) -> None:
        # Validation within a fit leaves the error to Checkpointing, too.
        if self.bad_images.limit_error and trainer.state.fn != TrainerFn.FITTING:
            raise self.bad_images.limit_error
