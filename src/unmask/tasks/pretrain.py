"""Pretraining: predict hidden patches."""

import lightning as L
import torch
from jaxtyping import Float
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from unmask.data.loading.bad_images import drop_substitutes
from unmask.data.loading.batch import Batch
from unmask.mae import MAE
from unmask.masking import BlockMasking, GridMasking, RandomMasking
from unmask.optim import MakeOptimizer
from unmask.randomness import Key, make_key
from unmask.targets import AnyTarget, wanted_at

AnyMasking = RandomMasking | BlockMasking | GridMasking
# whatever the run's seed: validation curves compare between runs
FIXED = make_key(0, "validation mask")


class Pretrain(L.LightningModule):
    """The MAE objective; masks are a function of (seed, epoch, sample), in validation of the sample alone.

    everywhere: the loss is on all patches, not on the hidden ones alone (footnote 1).
    """

    def __init__(
        self,
        model: MAE,
        masking: AnyMasking,
        target: AnyTarget,
        seed: int,
        make_optimizer: MakeOptimizer,
        everywhere: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.masking, self.target, self.everywhere = (
            model,
            masking,
            target,
            everywhere,
        )
        self.key, self.make_optimizer = make_key(seed, "mask"), make_optimizer

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        return self.reconstruction_loss(batch, self.key, batch.epoch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        batch, count = drop_substitutes(batch)
        loss = self.reconstruction_loss(batch, FIXED, epoch=0)
        self.log("val/loss", loss, batch_size=count, sync_dist=True, logger=False)

    def reconstruction_loss(
        self, batch: Batch, key: Key, epoch: int
    ) -> Float[Tensor, ""]:
        return self.target.loss(*self.predicted(batch, key, epoch))

    def predicted(self, batch: Batch, key: Key, epoch: int) -> tuple[Tensor, Tensor]:
        """What the decoder says of the patches whose error counts, and what it should say."""
        masking = self.masking(key, batch.ids_B, epoch)
        pred_BMP = self.model(batch.images_BCHW, masking, self.everywhere)
        index_BM = (
            torch.cat([masking.visible_BV, masking.masked_BM], 1)
            if self.everywhere
            else masking.masked_BM
        )
        return pred_BMP, wanted_at(
            self.target, batch.images_BCHW, index_BM, self.model.encoder.patch_size
        )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer, schedule = self.make_optimizer(self.model)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
