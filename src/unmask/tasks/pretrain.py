"""Pretraining: predict hidden patches."""

import lightning as L
from jaxtyping import Float
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from unmask.data.module import Batch
from unmask.losses import mean_squared_error
from unmask.mae import MAE
from unmask.masking import BlockMasking, GridMasking, RandomMasking
from unmask.optim import MakeOptimizer
from unmask.patches import gather, patchify
from unmask.randomness import Key, make_key
from unmask.targets import NormalisedPixel, Pixel

AnyMasking = RandomMasking | BlockMasking | GridMasking
AnyTarget = Pixel | NormalisedPixel
FIXED = make_key(0, "validation mask")  # whatever the run's seed: validation curves compare between runs


class Pretrain(L.LightningModule):
    """The MAE objective; masks are a function of (seed, epoch, sample), in validation of the sample alone."""

    def __init__(
        self, model: MAE, masking: AnyMasking, target: AnyTarget, seed: int, make_optimizer: MakeOptimizer
    ) -> None:
        super().__init__()
        self.model, self.masking, self.target = model, masking, target
        self.key, self.make_optimizer = make_key(seed, "mask"), make_optimizer

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        return self.reconstruction_loss(batch, self.key, batch.epoch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        loss = self.reconstruction_loss(batch, FIXED, epoch=0)
        self.log("val/loss", loss, batch_size=len(batch.ids_B), sync_dist=True, logger=False)

    def reconstruction_loss(self, batch: Batch, key: Key, epoch: int) -> Float[Tensor, ""]:
        masking = self.masking(key, batch.ids_B, epoch)
        pred_BMP = self.model(batch.images_BCHW, masking)
        patches_BLP = patchify(batch.images_BCHW, self.model.encoder.patch_size)
        return mean_squared_error(pred_BMP, self.target(gather(patches_BLP, masking.masked_BM)))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer, schedule = self.make_optimizer(self.model)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
