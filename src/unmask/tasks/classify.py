"""Classification: probes, fine-tuning and training from scratch differ only in the model and the training they get."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.data.mixup import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.utils import ModelEmaV3
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassStatScores,
)

from unmask.data.loading.bad_images import drop_substitutes
from unmask.data.loading.batch import Batch
from unmask.drop_path import sample_drop_path
from unmask.heads import Classifier
from unmask.optim import MakeOptimizer
from unmask.randomness import borrowed_generators, make_key, words

CONFUSABLE = 1000  # classes


@dataclass(frozen=True)
class Regularisation:
    """Label smoothing, mixup and cutmix by their alphas (0: none), the decay of averaged weights (None: no average).

    seed: of the mixing and of drop path. together: images that are mixed with each other (None: the batch).
    """

    seed: int = 0
    smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float | None = None
    together: int | None = None


class Classify(L.LightningModule):
    """Cross-entropy training; accuracies and calibration error over all validation images, in per cent."""

    def __init__(
        self, model: Classifier, make_optimizer: MakeOptimizer, regular: Regularisation
    ) -> None:
        super().__init__()
        self.model, self.make_optimizer, self.regular = model, make_optimizer, regular
        self.coins, self.mixing_key = (
            make_key(regular.seed, "drop path"),
            make_key(regular.seed, "mixup"),
        )
        classes = model.head.out_features
        self.mixing = _mixing(regular, classes)
        self.ema = (
            ModelEmaV3(model, decay=regular.ema).requires_grad_(False)
            if regular.ema
            else None
        )
        self.metrics = MetricCollection(_metrics(classes))
        self.unaveraged = (
            MulticlassAccuracy(classes, average="micro") if regular.ema else None
        )
        self.per_class = MulticlassStatScores(classes, average=None)
        # the square of iNaturalist's 8,142 classes would take half a gigabyte and
        # seconds a batch
        self.confusion = (
            MulticlassConfusionMatrix(classes) if classes <= CONFUSABLE else None
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        sample_drop_path(self.model, self.coins, batch.epoch, batch.ids_B)
        if self.mixing is None:
            return F.cross_entropy(
                self.model(batch.images_BCHW),
                batch.labels_B,
                label_smoothing=self.regular.smoothing,
            )
        images_BCHW, targets_BK = self.mix(batch)
        return SoftTargetCrossEntropy()(self.model(images_BCHW), targets_BK)

    def mix(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B K"]]:
        """timm's mixup or cutmix of each part with itself reversed; its ratio is named by epoch and first sample.

        A part is the same whoever holds it, so that a batch is mixed as one process alone would.
        """
        assert self.mixing is not None
        size = self.regular.together or len(batch.ids_B)
        images, targets = batch.images_BCHW.clone(), []  # timm mixes in place
        parts = zip(
            images.split(size),
            batch.labels_B.split(size),
            batch.ids_B.split(size),
            strict=True,
        )
        for images_PCHW, labels_P, ids_P in parts:
            (state,) = words(self.mixing_key, batch.epoch, ids_P[:1], 2).tolist()
            with borrowed_generators(state):
                mixed, targets_PK = self.mixing(images_PCHW, labels_P)
            images_PCHW.copy_(mixed)
            targets.append(targets_PK)
        return images, torch.cat(targets)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        # here, not at the end of the batch: a checkpoint of this step must hold its
        # average
        if self.ema is not None:
            self.ema.update(self.model)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        batch, count = drop_substitutes(batch)
        logits_BK = self.measured_model()(batch.images_BCHW)
        unaveraged_BK = (
            logits_BK if self.unaveraged is None else self.model(batch.images_BCHW)
        )
        loss = F.cross_entropy(logits_BK, batch.labels_B)
        self.log("val/loss", loss, batch_size=count, sync_dist=True, logger=False)
        if not count:
            return
        self.metrics.update(logits_BK.softmax(dim=1), batch.labels_B)
        self.per_class.update(logits_BK, batch.labels_B)
        if self.confusion is not None:
            self.confusion.update(logits_BK, batch.labels_B)
        if self.unaveraged is not None:
            self.unaveraged.update(unaveraged_BK, batch.labels_B)

    def on_validation_epoch_start(self) -> None:
        self.per_class.reset()  # its counts are read after the epoch
        if self.confusion is not None:
            self.confusion.reset()

    def on_validation_epoch_end(self) -> None:
        for name, value in self.metrics.compute().items():
            self.log(f"val/{name}", 100 * value, logger=False)
        self.metrics.reset()
        if self.unaveraged is not None:
            self.log(
                "val/accuracy_unaveraged", 100 * self.unaveraged.compute(), logger=False
            )
            self.unaveraged.reset()

    def measured_model(self) -> Callable[[Tensor], Tensor]:
        """The averaged weights where there is an average, else the trained ones."""
        return self.model if self.ema is None else self.ema.module

    def confusion_counts(self) -> Int[Tensor, "K K"] | None:
        """Validation images by true class (row) and predicted one (column), where the classes are not too many."""
        return None if self.confusion is None else self.confusion.compute()

    def class_counts(self) -> tuple[Int[Tensor, "K"], Int[Tensor, "K"]]:
        """Images of each class in the last validation, and how many of them were right."""
        # true and false positives, true and false negatives, support
        counts_K5 = self.per_class.compute()
        return counts_K5[:, 4], counts_K5[:, 0]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer, schedule = self.make_optimizer(self.model)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def _mixing(regular: Regularisation, classes: int) -> Mixup | None:
    if not regular.mixup and not regular.cutmix:
        return None
    return Mixup(
        regular.mixup,
        regular.cutmix,
        label_smoothing=regular.smoothing,
        num_classes=classes,
    )


def _metrics(classes: int) -> dict[str, Any]:
    top5 = (
        {"top5": MulticlassAccuracy(classes, average="micro", top_k=5)}
        if classes > 5
        else {}
    )
    calibration = MulticlassCalibrationError(classes)
    return {
        "accuracy": MulticlassAccuracy(classes, average="micro"),
        **top5,
        "calibration_error": calibration,
    }
