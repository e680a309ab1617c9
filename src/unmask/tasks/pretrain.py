"""Masked autoencoder pretraining: hide most of an image, predict it (MAE Sec. 3).

Names end in their axes (B images, L patches, M hidden patches; see unmask/__init__.py).
"""

import lightning as L
import torch
from jaxtyping import Float, Shaped
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from unmask.data.loading.bad_images import drop_substitutes
from unmask.data.loading.batch import Batch
from unmask.mae import MAE
from unmask.masking import AnyMasking, predict_part
from unmask.optim import MakeOptimizer, scheduled_by_step
from unmask.randomness import Key, make_key, uniform
from unmask.targets import AnyTarget, targets_at

# The run's seed is left out, so that validation curves of all runs compare.
VALIDATION_KEY = make_key(0, "validation mask")


class Pretrain(L.LightningModule):
    """Train an MAE to predict its target at the hidden patches of each image.

    A training mask is a function of (seed, epoch, sample), a validation mask of the
    sample alone: neither depends on batches, ranks or interruptions.
    """

    def __init__(
        self,
        model: MAE,
        masking: AnyMasking,
        target: AnyTarget,
        seed: int,
        make_optimizer: MakeOptimizer,
        loss_on_all: bool = False,
        num_predicted: int | None = None,
    ) -> None:
        """Keep the parts; `loss_on_all` counts the visible patches too (footnote 1).

        num_predicted: of the hidden patches of an image a training step predicts so
        many, drawn anew each epoch (CrossMAE Sec. 3.3); None: all, as validation does.
        """
        super().__init__()
        self.model = model
        self.masking = masking
        self.target = target
        self.mask_key = make_key(seed, "mask")
        self.make_optimizer = make_optimizer
        self.loss_on_all = loss_on_all
        self.num_predicted = num_predicted
        self.prediction_key = make_key(seed, "predicted patches")

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        return self.reconstruction_loss(batch, self.mask_key, batch.epoch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        # Leave out the images that stand in for unreadable ones.
        batch, count = drop_substitutes(batch)
        loss = self.reconstruction_loss(batch, VALIDATION_KEY, epoch=0)
        self.log("val/loss", loss, batch_size=count, sync_dist=True, logger=False)

    def reconstruction_loss(
        self, batch: Batch, key: Key, epoch: int
    ) -> Float[Tensor, ""]:
        """Mask the images, predict, and compare with the target."""
        pred_BMP, target_BM = self.predict(batch, key, epoch)
        return self.target.loss(pred_BMP, target_BM)

    def predict(
        self, batch: Batch, key: Key, epoch: int
    ) -> tuple[Float[Tensor, "B M P"], Shaped[Tensor, "B M *value"]]:
        """Return predictions and targets of the M patches that the loss counts.

        A target is one vector per patch, or one code per patch if tokens are predicted.
        """
        masking = self.masking(key, batch.ids_B, epoch)
        if self.num_predicted is not None and key == self.mask_key:
            scores_BM = uniform(
                self.prediction_key, epoch, batch.ids_B, masking.hidden_BM.shape[1]
            )
            masking = predict_part(masking, scores_BM, self.num_predicted)
        pred_BMP = self.model(
            batch.images_BCHW, masking, predict_visible=self.loss_on_all
        )

        index_BM = masking.hidden_BM
        if self.loss_on_all:
            # In the order of the predictions: the visible patches come first.
            index_BM = torch.cat([masking.visible_BV, masking.hidden_BM], dim=1)
        target_BM = targets_at(
            self.target, batch.images_BCHW, index_BM, self.model.encoder.patch_size
        )
        return pred_BMP, target_BM

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return scheduled_by_step(*self.make_optimizer(self.model))
