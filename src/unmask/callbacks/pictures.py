"""Draw reconstructions of fixed images under fixed masks while the model learns."""

from pathlib import Path

import lightning as L
from lightning.fabric.utilities import move_data_to_device

from unmask.data.loading.batch import ImageFormat
from unmask.data.loading.module import normalise
from unmask.data.loading.sampler import evenly_spread
from unmask.data.loading.views import Views
from unmask.reconstructions import contact_sheet, reconstruct, save_sheet
from unmask.tasks.pretrain import VALIDATION_KEY, Pretrain


class Pictures(L.Callback):
    """Write epoch=N.png after each validation, and one before the first step.

    All ranks draw, since each may hold but a share of the weights; rank zero writes.
    """

    def __init__(
        self, folder: Path, views: Views, form: ImageFormat, count: int
    ) -> None:
        """Choose `count` images, spread evenly over the views."""
        self.folder = folder
        self.form = form
        self.batch = views.batch(0, evenly_spread(len(views), count))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step == 0:
            self._draw(trainer, pl_module, 0)

    def on_validation_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> None:
        # Lightning counts micro-batches.
        batches = int(trainer.num_training_batches)
        steps_per_epoch = max(1, batches // trainer.accumulate_grad_batches)
        self._draw(trainer, pl_module, round(trainer.global_step / steps_per_epoch))

    def _draw(
        self, trainer: L.Trainer, pl_module: L.LightningModule, epoch: int
    ) -> None:
        assert isinstance(pl_module, Pretrain)
        target = pl_module.target
        assert target.to_pixels is not None, f"{target} predicts no pixels"
        batch = move_data_to_device(self.batch, pl_module.device)
        masking = pl_module.masking(VALIDATION_KEY, batch.ids_B, 0)
        images_BCHW = normalise(batch, self.form).images_BCHW
        was_training = pl_module.training
        pl_module.eval()
        # The precision of validation: shards in bfloat16 need it.
        with trainer.precision_plugin.val_step_context():
            result = reconstruct(
                pl_module.model,
                target,
                images_BCHW,
                masking,
                self.form.mean,
                self.form.std,
            )
        pl_module.train(was_training)
        if trainer.is_global_zero:
            save_sheet(contact_sheet(result), self.folder / f"epoch={epoch:04d}.png")
