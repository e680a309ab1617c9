"""Frozen features of whole splits, for kNN and for probes without augmentation."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import lightning as L
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from unmask.data.augment.corruptions import corrupt
from unmask.data.loading.bad_images import is_original
from unmask.data.loading.batch import Batch
from unmask.data.loading.module import Evaluation, ImageData
from unmask.distributed import collectives
from unmask.randomness import Key


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

    def predict_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> Predicted:
        return Predicted(
            self.model(batch.images_BCHW).float().cpu(),
            batch.labels_B.cpu(),
            is_original(batch).long().cpu(),
        )


def extract(
    trainer: L.Trainer, model: nn.Module, data: ImageData
) -> tuple[LabelledFeatures, LabelledFeatures]:
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
    return Predicted(
        *(
            collectives.gather_interleaved(torch.cat(part))
            for part in zip(*predicted, strict=True)
        )
    )


@dataclass(frozen=True)
class Corruption:
    """One of the 15 at one severity, for whole batches: the same for an image in any batch."""

    name: str
    severity: int
    key: Key

    def __call__(
        self, images_BCHW: UInt8[Tensor, "B C H W"], epoch: int, ids_B: Int[Tensor, "B"]
    ) -> UInt8[Tensor, "B C H W"]:
        return corrupt(images_BCHW, self.name, self.severity, self.key, ids_B)


def accuracy(
    trainer: L.Trainer, model: nn.Module, data: Evaluation, classes: tuple[int, ...]
) -> float:
    """Top-1 in per cent, among `classes` alone.

    ImageNet-A and -R hold 200 of the 1,000 classes; their authors leave the other logits out.
    """
    predicted = trainer.predict(Extract(model), datamodule=data)
    assert predicted is not None
    logits_NK, labels_N = joint(predicted).measured()
    return 100 * right(logits_NK, labels_N, classes).double().mean().item()


def right(
    logits_NK: Float[Tensor, "N K"],
    labels_N: Int[Tensor, "N"],
    classes: tuple[int, ...],
) -> Int[Tensor, "N"]:
    """1 where the best of the allowed classes is the label."""
    allowed = torch.full((logits_NK.shape[1],), float("-inf")).index_fill(
        0, torch.tensor(classes), 0.0
    )
    return ((logits_NK + allowed).argmax(dim=1) == labels_N).int()


CHUNK = 1024  # queries at once, to bound the similarity matrix


def knn_accuracy(
    bank: LabelledFeatures, queries: LabelledFeatures, k: int, temperature: float
) -> float:
    """Top-1 accuracy in per cent; k is cut to the size of the bank."""
    num_classes = int(torch.cat([bank.labels_N, queries.labels_N]).max()) + 1
    predicted = [
        knn_scores(bank, chunk, num_classes, k, temperature).argmax(dim=1)
        for chunk in queries.features_ND.split(CHUNK)
    ]
    return 100 * (torch.cat(predicted) == queries.labels_N).double().mean().item()


def knn_scores(
    bank: LabelledFeatures,
    queries_ND: Float[Tensor, "N D"],
    num_classes: int,
    k: int,
    temperature: float,
) -> Float[Tensor, "N K"]:
    """Votes of the k most similar bank vectors, each weighted by exp(cosine / temperature)."""
    similarity_NM = (
        F.normalize(queries_ND, dim=1) @ F.normalize(bank.features_ND, dim=1).T
    )
    nearest = similarity_NM.topk(min(k, len(bank.labels_N)), dim=1)
    labels_Nk: Int[Tensor, "N k"] = bank.labels_N[nearest.indices]
    # less one: exp stays within float32
    votes_Nk = ((nearest.values - 1) / temperature).exp()
    return votes_Nk.new_zeros(len(queries_ND), num_classes).scatter_add_(
        1, labels_Nk, votes_Nk
    )
