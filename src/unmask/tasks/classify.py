"""Classification: the linear probe, fine-tuning and training from scratch differ only in the model they are given."""

import lightning as L
import torch.nn.functional as F
from jaxtyping import Float
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from unmask.data.module import Batch
from unmask.heads import Classifier
from unmask.optim import MakeOptimizer


class Classify(L.LightningModule):
    """Cross-entropy training, top-1 accuracy over all validation images (in per cent)."""

    def __init__(self, model: Classifier, make_optimizer: MakeOptimizer) -> None:
        super().__init__()
        self.model, self.make_optimizer = model, make_optimizer
        self.accuracy = MulticlassAccuracy(model.head.out_features, average="micro")

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        return F.cross_entropy(self.model(batch.images_BCHW), batch.labels_B)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits_BK = self.model(batch.images_BCHW)
        self.accuracy(logits_BK, batch.labels_B)
        loss = F.cross_entropy(logits_BK, batch.labels_B)
        self.log("val/loss", loss, batch_size=len(batch.ids_B), sync_dist=True, logger=False)

    def on_validation_epoch_end(self) -> None:
        self.log("val/accuracy", 100 * self.accuracy.compute(), logger=False)
        self.accuracy.reset()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer, schedule = self.make_optimizer(self.model)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
