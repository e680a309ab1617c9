"""Training the small dVAE whose tokens an MAE is to predict."""

import math
from dataclasses import dataclass

import lightning as L
import torch
from jaxtyping import Float, Int
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import Metric

from unmask.data.loading.bad_images import drop_substitutes
from unmask.data.loading.batch import Batch
from unmask.optim import MakeOptimizer
from unmask.randomness import make_key, uniform
from unmask.tokenizers import SmallTokenizer


@dataclass(frozen=True)
class Annealing:
    """The temperature by optimiser step, geometrically from `start` to `end` (DALL-E's goes from 1 to 1/16)."""

    total_steps: int
    start: float = 2.0
    end: float = 1 / 16

    def __call__(self, step: int) -> float:
        return self.start * (self.end / self.start) ** min(1.0, step / self.total_steps)


class CodeUsage(Metric):
    """Perplexity of the codes in use: 1 where all patches share one, the size of the codebook where all are even."""

    counts_K: Tensor
    full_state_update = False

    def __init__(self, codes: int) -> None:
        super().__init__()
        self.add_state(
            "counts_K", torch.zeros(codes, dtype=torch.long), dist_reduce_fx="sum"
        )

    def update(self, tokens_BL: Int[Tensor, "B L"]) -> None:
        self.counts_K += torch.bincount(
            tokens_BL.flatten(), minlength=len(self.counts_K)
        )

    def compute(self) -> Float[Tensor, ""]:
        return torch.special.entr(self.counts_K / self.counts_K.sum()).sum().exp()


class TrainTokenizer(L.LightningModule):
    """The dVAE's objective; Gumbel's noise is a function of (seed, epoch, sample), the temperature of the step."""

    def __init__(
        self,
        model: SmallTokenizer,
        seed: int,
        make_optimizer: MakeOptimizer,
        annealing: Annealing,
        usage_weight: float,
    ) -> None:
        super().__init__()
        self.model, self.make_optimizer = model, make_optimizer
        self.key, self.annealing, self.usage_weight = (
            make_key(seed, "gumbel"),
            annealing,
            usage_weight,
        )
        self.usage = CodeUsage(model.codes)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        return self.relaxed_loss(batch, self.annealing(self.trainer.global_step))

    def relaxed_loss(self, batch: Batch, temperature: float) -> Float[Tensor, ""]:
        patches = math.prod(batch.images_BCHW.shape[2:]) // self.model.patch_size**2
        noise = uniform(self.key, batch.epoch, batch.ids_B, patches * self.model.codes)
        noise_BLK = noise.unflatten(1, (patches, self.model.codes))
        return self.model.loss(
            batch.images_BCHW, noise_BLK, temperature, self.usage_weight
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss is the squared error of what the chosen codes alone give back, without noise."""
        batch, count = drop_substitutes(batch)
        tokens_BL = self.model.tokens(batch.images_BCHW)
        if count:
            self.usage.update(tokens_BL)
        height, width = (
            side // self.model.patch_size for side in batch.images_BCHW.shape[2:]
        )
        error = (
            self.model.reconstruct(tokens_BL, (height, width)).float()
            - batch.images_BCHW.float()
        )
        loss = error.square().mean()
        self.log("val/loss", loss, batch_size=count, sync_dist=True, logger=False)

    def on_validation_epoch_end(self) -> None:
        self.log("val/perplexity", self.usage.compute(), logger=False)
        self.usage.reset()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer, schedule = self.make_optimizer(self.model)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
