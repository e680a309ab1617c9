"""Tells the stage's list of every image in a batch that could not be read."""

from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from unmask.data.loading.bad_images import BadImages, Seen
from unmask.data.loading.batch import Batch
from unmask.data.loading.module import Evaluation, ImageData


class BadImageReporter(L.Callback):
    """When a batch is used, not when it is read ahead: what is listed by a step is the same however it is loaded.

    Too many in training are the Keeper's to end, all processes together and saved; elsewhere that is an error here.
    """

    def __init__(self, bad: BadImages) -> None:
        self.bad = bad

    def on_train_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        if batch.bad:
            data: Any = trainer.datamodule
            self.bad.met(
                batch.bad,
                Seen("training", len(data.ids), batch.epoch, trainer.global_step + 1),
            )

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch.bad:
            data: Any = trainer.datamodule
            self.bad.met(
                batch.bad,
                Seen(
                    "validation",
                    len(data.val_views),
                    trainer.current_epoch,
                    trainer.global_step,
                ),
            )
        self._end(trainer)

    def on_predict_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch.bad:
            data: ImageData | Evaluation = trainer.datamodule
            self.bad.met(batch.bad, data.seen(dataloader_idx))
        self._end(trainer)

    def _end(self, trainer: L.Trainer) -> None:
        if self.bad.fault and trainer.state.fn != TrainerFn.FITTING:
            raise self.bad.fault
