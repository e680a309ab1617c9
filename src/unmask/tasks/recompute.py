"""A training step's loss once more, without a trainer: all that is random in it is named by epoch and sample."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unmask.data.loading.batch import Batch
from unmask.tasks.classify import Classify
from unmask.tasks.pretrain import Pretrain
from unmask.tasks.tokenizer import TrainTokenizer

Trained = Pretrain | Classify | TrainTokenizer


def loss_again(module: Trained, batch: Batch, steps_before: int) -> Float[Tensor, ""]:
    """Of one micro-batch, the same bits as in training; steps_before: optimiser steps that were made before."""
    # its temperature follows the trainer's count of steps
    if isinstance(module, TrainTokenizer):
        return module.relaxed_loss(batch, module.annealing(steps_before))
    return module.training_step(batch, 0)


@torch.no_grad()
def losses_by_sample(
    module: Trained, batch: Batch, steps_before: int
) -> Float[Tensor, "B"]:
    """Each image's own share of the loss; where images are mixed, that of the mixture in its place."""
    if isinstance(module, Pretrain):
        predicted_BM, wanted_BM = module.predicted(batch, module.key, batch.epoch)
        pairs = zip(predicted_BM.split(1), wanted_BM.split(1), strict=True)
        return torch.stack(
            [module.target.loss(predicted, wanted) for predicted, wanted in pairs]
        )
    if isinstance(module, Classify):
        return _of_classes(module, batch)
    singles = (rows(batch, [i]) for i in range(len(batch.ids_B)))
    return torch.stack([loss_again(module, single, steps_before) for single in singles])


def _of_classes(module: Classify, batch: Batch) -> Float[Tensor, "B"]:
    logits: list[Tensor] = []
    with module.model.register_forward_hook(
        lambda model, given, made: logits.append(made)
    ):
        module.training_step(batch, 0)
    logits_BK = logits[0].float()
    if module.mixing is None:
        return F.cross_entropy(
            logits_BK,
            batch.labels_B,
            label_smoothing=module.regular.smoothing,
            reduction="none",
        )
    return -(module.mix(batch)[1] * logits_BK.log_softmax(dim=1)).sum(dim=1)


def rows(batch: Batch, kept: list[int]) -> Batch:
    """These images of the batch alone; their crops are made already."""
    return batch._replace(
        images_BCHW=batch.images_BCHW[kept],
        labels_B=batch.labels_B[kept],
        ids_B=batch.ids_B[kept],
        boxes_B5=None,
    )
