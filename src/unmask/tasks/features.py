"""Frozen features of whole splits, for kNN and for probes without augmentation."""

from typing import Any, NamedTuple

import lightning as L
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unmask import collectives
from unmask.data.module import ImageData
from unmask.data.views import Batch


class LabelledFeatures(NamedTuple):
    """One vector and one label an image."""

    features_ND: Float[Tensor, "N D"]
    labels_N: Int[Tensor, "N"]


class Extract(L.LightningModule):
    """Runs a frozen model over a split."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> LabelledFeatures:
        return LabelledFeatures(self.model(batch.images_BCHW).float().cpu(), batch.labels_B.cpu())


def extract(trainer: L.Trainer, model: nn.Module, data: ImageData) -> tuple[LabelledFeatures, LabelledFeatures]:
    """Features of the training samples and of the validation samples, as evaluation sees both."""
    predicted = trainer.predict(Extract(model), datamodule=data)
    assert predicted is not None
    bank, queries = map(joint, predicted)
    return bank, queries


def joint(predicted: Any) -> LabelledFeatures:
    """The batches of all processes as one split, in its order."""
    return LabelledFeatures(*(collectives.taking_turns(torch.cat(part)) for part in zip(*predicted, strict=True)))
