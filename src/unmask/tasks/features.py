"""Frozen features of whole splits: for kNN, robustness and unaugmented probes."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import lightning as L
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unmask.data.augment.corruptions import corrupt
from unmask.data.images.tensors import PixelBatch
from unmask.data.loading.bad_images import is_original
from unmask.data.loading.batch import Batch
from unmask.data.loading.module import EvaluationData, ImageData
from unmask.distributed import collectives
from unmask.randomness import Key
from unmask.tasks.logits import refuse_nonfinite


class LabelledFeatures(NamedTuple):
    """A feature vector and a label for each of N images."""

    features_ND: Float[Tensor, "N D"]
    labels_N: Int[Tensor, "N"]


class SplitFeatures(NamedTuple):
    """Features of the training and of the validation images.

    val_ids_N: the places of the latter in their split; those that cannot be read lack.
    """

    train: LabelledFeatures
    val: LabelledFeatures
    val_ids_N: Int[Tensor, "N"]


class ModelOutputs(NamedTuple):
    """A frozen model's outputs on a split (features, or logits), in its order.

    is_original_N: 1, or 0 where another image was substituted for an unreadable one.
    """

    outputs_ND: Float[Tensor, "N D"]
    labels_N: Int[Tensor, "N"]
    is_original_N: Int[Tensor, "N"]

    def all_samples(self) -> LabelledFeatures:
        return LabelledFeatures(self.outputs_ND, self.labels_N)

    def originals(self) -> LabelledFeatures:
        """Leave out substitutes, so that each image counts once."""
        rows_N = self.is_original_N.bool()
        return LabelledFeatures(self.outputs_ND[rows_N], self.labels_N[rows_N])


class FeatureExtractor(L.LightningModule):
    """Run a frozen model over a split with `trainer.predict`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def predict_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> ModelOutputs:
        outputs_BD = self.model(batch.images_BCHW).float()
        refuse_nonfinite(outputs_BD, "features or logits")
        # On the CPU: a split's features need not fit the accelerator's memory.
        return ModelOutputs(
            outputs_BD.cpu(),
            batch.labels_B.cpu(),
            is_original(batch).long().cpu(),
        )


def extract_features(
    trainer: L.Trainer, model: nn.Module, data: ImageData
) -> SplitFeatures:
    """Return the features of the training and of the validation images.

    Both are seen as evaluation sees them, without augmentation. An unreadable training
    image has its substitute's features, as in any training; an unreadable validation
    image is left out.
    """
    batches = trainer.predict(FeatureExtractor(model), datamodule=data)
    assert batches is not None
    train, val = map(gather_outputs, batches)
    val_ids_N = val.is_original_N.nonzero().flatten()
    return SplitFeatures(train.all_samples(), val.originals(), val_ids_N)


def gather_outputs(batches: Any) -> ModelOutputs:
    """Join the batches of all ranks into one split, in its order."""
    # Each batch is a tuple of the same columns.
    columns = zip(*batches, strict=True)
    return ModelOutputs(
        *(collectives.gather_interleaved(torch.cat(column)) for column in columns)
    )


@dataclass(frozen=True)
class Corruption:
    """Apply one of the 15 corruptions of ImageNet-C, at one severity, to a batch.

    An image is corrupted in the same way in any batch.
    """

    name: str
    severity: int
    key: Key

    def __call__(
        self, images_BCHW: PixelBatch, epoch: int, ids_B: Int[Tensor, "B"]
    ) -> PixelBatch:
        # The epoch is left out: every evaluation sees the same images.
        return corrupt(images_BCHW, self.name, self.severity, self.key, ids_B)


def measure_accuracy(
    trainer: L.Trainer, model: nn.Module, data: EvaluationData, classes: tuple[int, ...]
) -> float:
    """Return the top-1 accuracy in per cent, choosing among `classes` alone.

    ImageNet-A and -R hold 200 of the 1,000 classes, and their authors ignore the logits
    of the others.
    """
    batches = trainer.predict(FeatureExtractor(model), datamodule=data)
    assert batches is not None
    logits_NK, labels_N = gather_outputs(batches).originals()
    return 100 * is_correct(logits_NK, labels_N, classes).double().mean().item()


def top1_accuracy(predicted_N: Int[Tensor, "N"], labels_N: Int[Tensor, "N"]) -> float:
    """Return the share of right predictions, in per cent."""
    return 100 * (predicted_N == labels_N).double().mean().item()


def is_correct(
    logits_NK: Float[Tensor, "N K"],
    labels_N: Int[Tensor, "N"],
    classes: tuple[int, ...],
) -> Int[Tensor, "N"]:
    """Return 1 where the largest logit among `classes` is the label's, else 0."""
    # Minus infinity takes the other classes out of the argmax.
    penalty_K = torch.full((logits_NK.shape[1],), float("-inf"))
    penalty_K = penalty_K.index_fill(0, torch.tensor(classes), 0.0)
    return ((logits_NK + penalty_K).argmax(dim=1) == labels_N).int()
