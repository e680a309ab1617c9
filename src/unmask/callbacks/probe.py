"""Measure the encoder's features while it pretrains: kNN, or a linear classifier.

Nothing of it reaches the training: no gradient, no random number, no weight.
"""

from collections.abc import Callable

import lightning as L
import torch
from lightning.fabric.utilities import move_data_to_device

from unmask.data.loading.bad_images import is_original
from unmask.data.loading.batch import ImageFormat
from unmask.data.loading.module import normalise
from unmask.data.loading.views import Views
from unmask.distributed import collectives
from unmask.heads import Features, FrozenPool
from unmask.tasks.features import LabelledFeatures
from unmask.tasks.pretrain import Pretrain

# images that the encoder takes at once
CHUNK = 256
# of the bank's features to the queries': top-1 accuracy in per cent
Accuracy = Callable[[LabelledFeatures, LabelledFeatures], float]


class FeatureProbe(L.Callback):
    """Log the accuracy as `watch/<name>` at each validation.

    bank, queries: training and validation images as evaluation crops them; `count` of
    each are used, spread evenly. The ranks share them.
    """

    def __init__(
        self,
        name: str,
        accuracy: Accuracy,
        bank: Views,
        queries: Views,
        count: int,
        form: ImageFormat,
        pool: FrozenPool,
    ) -> None:
        self.key = f"watch/{name}"
        self.accuracy = accuracy
        self.splits = [
            (views, torch.linspace(0, len(views) - 1, min(count, len(views))).long())
            for views in (bank, queries)
        ]
        self.form = form
        self.pool: FrozenPool = pool

    def on_validation_epoch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> None:
        assert isinstance(pl_module, Pretrain)
        features = Features(pl_module.model.encoder, self.pool)
        with trainer.precision_plugin.val_step_context():
            bank, queries = (
                self._extract(features, views, ids_N, pl_module.device)
                for views, ids_N in self.splits
            )
        pl_module.log(self.key, self.accuracy(bank, queries))

    @torch.no_grad()
    def _extract(
        self,
        features: Features,
        views: Views,
        ids_N: torch.Tensor,
        device: torch.device,
    ) -> LabelledFeatures:
        rows, labels = [], []
        for ids in ids_N[collectives.rank() :: collectives.world_size()].split(CHUNK):
            batch = move_data_to_device(views.batch(0, ids.tolist()), device)
            keep_B = is_original(batch)
            outputs_BD = features(normalise(batch, self.form).images_BCHW)
            rows.append(outputs_BD[keep_B].float().cpu())
            labels.append(batch.labels_B[keep_B].cpu())
        return LabelledFeatures(
            collectives.gather_interleaved(torch.cat(rows)),
            collectives.gather_interleaved(torch.cat(labels)),
        )
