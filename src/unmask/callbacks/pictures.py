"""Reconstructions of fixed images under fixed masks, as PNG files, while the model learns."""

from pathlib import Path

import lightning as L
import torch

from unmask.data.loading.batch import Batch, Format, normalised
from unmask.data.loading.views import Views
from unmask.reconstructions import reconstruct, save_sheet
from unmask.targets import NormalisedPixel, PatchPCA, Pixel
from unmask.tasks.pretrain import FIXED, Pretrain


class Pictures(L.Callback):
    """pictures/epoch=N.png after each validation; all processes draw, since each may hold but a share of the weights,
    and the main one writes.
    """

    def __init__(self, folder: Path, views: Views, form: Format, count: int) -> None:
        self.folder, self.form = folder, form
        spread = (
            torch.linspace(0, len(views) - 1, min(count, len(views))).long().unique()
        )
        self.batch: Batch = views.__getitems__([(0, i) for i in spread.tolist()])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step == 0:
            self._draw(trainer, pl_module, 0)

    def on_validation_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> None:
        per_epoch = max(
            1, int(trainer.num_training_batches) // trainer.accumulate_grad_batches
        )
        self._draw(trainer, pl_module, round(trainer.global_step / per_epoch))

    def _draw(
        self, trainer: L.Trainer, pl_module: L.LightningModule, epoch: int
    ) -> None:
        assert isinstance(pl_module, Pretrain)
        device = pl_module.device
        batch = self.batch._replace(
            images_BCHW=self.batch.images_BCHW.to(device),
            ids_B=self.batch.ids_B.to(device),
            boxes_B5=(
                None if self.batch.boxes_B5 is None else self.batch.boxes_B5.to(device)
            ),
        )
        masking = pl_module.masking(FIXED, batch.ids_B, 0)
        images = normalised(batch, self.form).images_BCHW
        was_training = pl_module.training
        pl_module.eval()
        assert isinstance(pl_module.target, Pixel | NormalisedPixel | PatchPCA), (
            "others predict no pixels"
        )
        # as validation computes: shares in bfloat16 ask for it
        with trainer.precision_plugin.val_step_context():
            result = reconstruct(
                pl_module.model,
                pl_module.target,
                images,
                masking,
                self.form.mean,
                self.form.std,
            )
        pl_module.train(was_training)
        if trainer.is_global_zero:
            save_sheet(result, self.folder / f"epoch={epoch:04d}.png")
