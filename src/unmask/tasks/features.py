"""Frozen features of whole splits, for kNN and for probes without augmentation."""

from typing import Any, NamedTuple

import lightning as L
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unmask import collectives
from unmask.data.bad_images import own
from unmask.data.batch import Batch
from unmask.data.module import ImageData


class LabelledFeatures(NamedTuple):
    """One vector and one label an image."""

    features_ND: Float[Tensor, "N D"]
    labels_N: Int[Tensor, "N"]


class Predicted(NamedTuple):
    """own: 0 where another image stands in for the sample's."""

    features_ND: Float[Tensor, "N D"]
    labels_N: Int[Tensor, "N"]
    own_N: Int[Tensor, "N"]

    def all(self) -> LabelledFeatures:
        return LabelledFeatures(self.features_ND, self.labels_N)

    def measured(self) -> LabelledFeatures:
        """Each image once: none that stands in for another."""
        kept_N = self.own_N.bool()
        return LabelledFeatures(self.features_ND[kept_N], self.labels_N[kept_N])


class Extract(L.LightningModule):
    """Runs a frozen model over a split."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Predicted:
        return Predicted(self.model(batch.images_BCHW).float().cpu(), batch.labels_B.cpu(), own(batch).long().cpu())


def extract(trainer: L.Trainer, model: nn.Module, data: ImageData) -> tuple[LabelledFeatures, LabelledFeatures]:
    """Features of the training samples and of the validation samples, as evaluation sees both.

    A training sample that cannot be read has those of the image that stands in for it, as in any training; a
    validation sample is left out.
    """
    predicted = trainer.predict(Extract(model), datamodule=data)
    assert predicted is not None
    bank, queries = map(joint, predicted)
    return bank.all(), queries.measured()


def joint(predicted: Any) -> Predicted:
    """The batches of all processes as one split, in its order."""
    return Predicted(*(collectives.taking_turns(torch.cat(part)) for part in zip(*predicted, strict=True)))
