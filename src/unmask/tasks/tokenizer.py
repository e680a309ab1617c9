"""Training of the small dVAE whose tokens an MAE can predict (MAE Table 1d)."""

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
from unmask.optim import MakeOptimizer, scheduled_by_step
from unmask.randomness import make_key, uniform
from unmask.tokenizers import SmallTokenizer


@dataclass(frozen=True)
class Annealing:
    """Lower the Gumbel-softmax temperature geometrically over the optimiser steps.

    DALL-E's falls from 1 to 1/16.
    """

    total_steps: int
    start: float = 2.0
    end: float = 1 / 16

    def __call__(self, step: int) -> float:
        progress = min(1.0, step / self.total_steps)
        return self.start * (self.end / self.start) ** progress


class CodeUsage(Metric):
    """Perplexity of the codes in use, over all validation patches.

    It is 1 where all patches share one code, and the size of the codebook where all
    codes are used equally often.
    """

    counts_K: Tensor
    full_state_update = False

    def __init__(self, codes: int) -> None:
        super().__init__()
        counts_K = torch.zeros(codes, dtype=torch.long)
        self.add_state("counts_K", counts_K, dist_reduce_fx="sum")

    def update(self, tokens_BL: Int[Tensor, "B L"]) -> None:
        num_codes = len(self.counts_K)
        self.counts_K += torch.bincount(tokens_BL.flatten(), minlength=num_codes)

    def compute(self) -> Float[Tensor, ""]:
        share_K = self.counts_K / self.counts_K.sum()
        # entr is -p log p, and 0 for a code that is never used.
        return torch.special.entr(share_K).sum().exp()


class TrainTokenizer(L.LightningModule):
    """Train a dVAE with the Gumbel-softmax relaxation.

    The noise is a function of (seed, epoch, sample), the temperature one of the step.
    """

    def __init__(
        self,
        model: SmallTokenizer,
        seed: int,
        make_optimizer: MakeOptimizer,
        annealing: Annealing,
        usage_weight: float,
    ) -> None:
        """Keep the parts; `usage_weight` scales the reward for using all codes."""
        super().__init__()
        self.model = model
        self.make_optimizer = make_optimizer
        self.annealing = annealing
        self.usage_weight = usage_weight
        self.noise_key = make_key(seed, "gumbel")
        self.usage = CodeUsage(model.codes)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        temperature = self.annealing(self.trainer.global_step)
        return self.relaxed_loss(batch, temperature)

    def relaxed_loss(self, batch: Batch, temperature: float) -> Float[Tensor, ""]:
        """Return the training loss of the batch at this temperature."""
        codes = self.model.codes
        pixels = math.prod(batch.images_BCHW.shape[2:])
        patches = pixels // self.model.patch_size**2
        # Uniform numbers; the loss makes Gumbel noise of them.
        noise = uniform(self.noise_key, batch.epoch, batch.ids_B, patches * codes)
        noise_BLK = noise.unflatten(1, (patches, codes))
        return self.model.loss(
            batch.images_BCHW, noise_BLK, temperature, self.usage_weight
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the squared error of images decoded from their chosen codes alone."""
        batch, count = drop_substitutes(batch)
        tokens_BL = self.model.tokens(batch.images_BCHW)
        # Without an original the batch holds substitutes, which do not count.
        if count:
            self.usage.update(tokens_BL)
        height, width = batch.images_BCHW.shape[2:]
        grid = (height // self.model.patch_size, width // self.model.patch_size)
        decoded_BCHW = self.model.reconstruct(tokens_BL, grid).float()
        loss = (decoded_BCHW - batch.images_BCHW.float()).square().mean()
        self.log("val/loss", loss, batch_size=count, sync_dist=True, logger=False)

    def on_validation_epoch_end(self) -> None:
        self.log("val/perplexity", self.usage.compute(), logger=False)
        self.usage.reset()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return scheduled_by_step(*self.make_optimizer(self.model))
