"""Classification: linear probes, fine-tuning and training from scratch (MAE App. A).

They differ only in the model and the optimiser that they are given.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.loss import SoftTargetCrossEntropy
from timm.utils import ModelEmaV3
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
)

from unmask.data.loading.bad_images import drop_substitutes
from unmask.data.loading.batch import Batch
from unmask.distributed import collectives
from unmask.drop_path import sample_drop_path
from unmask.heads import Classifier
from unmask.optim import MakeOptimizer, scheduled_by_step
from unmask.randomness import make_key
from unmask.tasks.logits import best_guesses, refuse_nonfinite
from unmask.tasks.mixup import make_mixup, mix_batch

# The accuracies, each with how many guesses it allows.
TOP = {"accuracy": 1, "top5": 5}


@dataclass(frozen=True)
class Regularisation:
    """Regularisation of a fine-tuning (MAE Table 9); the defaults switch all of it off.

    seed: seed of mixing and drop path. smoothing: share of the label spread over all
    classes. mixup, cutmix: alphas. ema: decay of the averaged weights. mix_size: how
    many images are mixed with each other; None: the batch.
    """

    seed: int = 0
    smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float | None = None
    mix_size: int | None = None


class Classify(L.LightningModule):
    """Train by cross-entropy; measure accuracies and calibration error in per cent."""

    def __init__(
        self,
        model: Classifier,
        make_optimizer: MakeOptimizer,
        regularisation: Regularisation,
    ) -> None:
        super().__init__()
        self.model = model
        self.make_optimizer = make_optimizer
        self.regularisation = regularisation
        self.drop_path_key = make_key(regularisation.seed, "drop path")
        self.mixup_key = make_key(regularisation.seed, "mixup")
        classes = model.head.out_features
        self.mixup = make_mixup(
            regularisation.mixup,
            regularisation.cutmix,
            regularisation.smoothing,
            classes,
        )
        # Without groups: they would be found by equal counts in the first batch.
        self.metrics = MetricCollection(_make_metrics(classes), compute_groups=False)
        # of the last validation: ids, labels and predicted classes of each batch
        self.answers: list[tuple[Tensor, ...]] = []
        self.ema: ModelEmaV3 | None = None
        self.unaveraged_accuracy: MulticlassAccuracy | None = None
        if regularisation.ema:
            average = ModelEmaV3(model, decay=regularisation.ema)
            self.ema = average.requires_grad_(False)
            self.unaveraged_accuracy = MulticlassAccuracy(classes, average="micro")

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        sample_drop_path(self.model, self.drop_path_key, batch.epoch, batch.ids_B)
        if self.mixup is None:
            return F.cross_entropy(
                self.model(batch.images_BCHW),
                batch.labels_B,
                label_smoothing=self.regularisation.smoothing,
            )
        images_BCHW, targets_BK = self.mix(batch)
        return SoftTargetCrossEntropy()(self.model(images_BCHW), targets_BK)

    def mix(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B K"]]:
        """Return mixed images and their soft targets; see `tasks.mixup`."""
        assert self.mixup is not None
        mix_size = self.regularisation.mix_size
        return mix_batch(self.mixup, batch, self.mixup_key, mix_size)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        # Not in on_train_batch_end: a checkpoint of this step must hold its average.
        if self.ema is not None:
            self.ema.update(self.model)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        # An unreadable image must not count through the image that replaces it.
        batch, count = drop_substitutes(batch)
        logits_BK = self.evaluated_model()(batch.images_BCHW)
        # Before the return below: where weights are sharded, every rank has to take
        # part in every forward pass.
        unaveraged_BK = logits_BK
        if self.unaveraged_accuracy is not None:
            unaveraged_BK = self.model(batch.images_BCHW)
        loss = F.cross_entropy(logits_BK, batch.labels_B)
        self.log("val/loss", loss, batch_size=count, sync_dist=True, logger=False)
        if not count:
            return
        refuse_nonfinite(logits_BK, "logits")
        for name, count in TOP.items():
            if name in self.metrics:
                guesses_B = best_guesses(logits_BK, batch.labels_B, count)
                self.metrics[name].update(guesses_B, batch.labels_B)
        answer = batch.ids_B, batch.labels_B, logits_BK.argmax(dim=1)
        self.answers.append(tuple(values_B.cpu() for values_B in answer))
        probabilities_BK = logits_BK.softmax(dim=1)
        self.metrics["calibration_error"].update(probabilities_BK, batch.labels_B)
        if self.unaveraged_accuracy is not None:
            self.unaveraged_accuracy.update(unaveraged_BK, batch.labels_B)

    def on_validation_epoch_start(self) -> None:
        # Here, because they are read after the epoch ends.
        self.answers.clear()

    def on_validation_epoch_end(self) -> None:
        for name, value in self.metrics.compute().items():
            self.log(f"val/{name}", 100 * value, logger=False)
        self.metrics.reset()
        if self.unaveraged_accuracy is not None:
            accuracy = 100 * self.unaveraged_accuracy.compute()
            self.log("val/accuracy_unaveraged", accuracy, logger=False)
            self.unaveraged_accuracy.reset()

    def evaluated_model(self) -> Callable[[Tensor], Tensor]:
        """Return the model with averaged weights, or the trained one without `ema`."""
        return self.model if self.ema is None else self.ema.module

    def predictions(self) -> Int[Tensor, "N 3"]:
        """Return id, label and predicted class of the last validation's images, by id.

        All ranks call it, since each has validated its own images.
        """
        parts = [torch.stack(answer, dim=1) for answer in self.answers]
        rows_N3 = torch.cat(parts) if parts else torch.empty(0, 3, dtype=torch.long)
        rows_N3 = collectives.gather_interleaved(rows_N3)
        return rows_N3[rows_N3[:, 0].argsort()]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return scheduled_by_step(*self.make_optimizer(self.model))


def _make_metrics(classes: int) -> dict[str, Any]:
    # Among five classes or fewer a top-5 accuracy is always 100 %.
    metrics: dict[str, Any] = {
        name: MulticlassAccuracy(classes, average="micro")
        for name, count in TOP.items()
        if count < max(classes, 2)
    }
    return metrics | {"calibration_error": MulticlassCalibrationError(classes)}
