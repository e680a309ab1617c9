"""The loss of a training step, computed again without a trainer.

All that is random in a step is a function of (seed, epoch, sample), so that the loss
comes out with the same bits.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unmask.data.loading.batch import Batch
from unmask.tasks.classify import Classify
from unmask.tasks.pretrain import Pretrain
from unmask.tasks.tokenizer import TrainTokenizer

TrainingTask = Pretrain | Classify | TrainTokenizer


def recompute_loss(
    module: TrainingTask, batch: Batch, steps_before: int
) -> Float[Tensor, ""]:
    """Return the training loss of one micro-batch, bit for bit.

    steps_before: optimiser steps that were made before this one.
    """
    # training_step would read the temperature off the trainer's count of steps.
    if isinstance(module, TrainTokenizer):
        return module.relaxed_loss(batch, module.annealing(steps_before))
    return module.training_step(batch, 0)


@torch.no_grad()
def recompute_sample_losses(
    module: TrainingTask, batch: Batch, steps_before: int
) -> Float[Tensor, "B"]:
    """Return the loss of each image; of mixed images that of the mixture."""
    if isinstance(module, Pretrain):
        return _pretrain_losses(module, batch)
    if isinstance(module, Classify):
        return _classify_losses(module, batch)
    # The mean over a batch of one image is the loss of that image.
    losses = []
    for i in range(len(batch.ids_B)):
        single = select_samples(batch, [i])
        losses.append(recompute_loss(module, single, steps_before))
    return torch.stack(losses)


def _pretrain_losses(module: Pretrain, batch: Batch) -> Float[Tensor, "B"]:
    pred_BMP, target_BM = module.predict(batch, module.mask_key, batch.epoch)
    pairs = zip(pred_BMP.split(1), target_BM.split(1), strict=True)
    return torch.stack([module.target.loss(pred, target) for pred, target in pairs])


def _classify_losses(module: Classify, batch: Batch) -> Float[Tensor, "B"]:
    recorded: list[Tensor] = []

    def record(model: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
        recorded.append(logits)

    # The step itself prepares the inputs: it mixes images and samples drop path.
    with module.model.register_forward_hook(record):
        module.training_step(batch, 0)
    logits_BK = recorded[0]
    if module.mixup is None:
        return F.cross_entropy(
            logits_BK,
            batch.labels_B,
            label_smoothing=module.regularisation.smoothing,
            reduction="none",
        )
    # Mixing depends on the batch alone: these are the targets of that step.
    _, targets_BK = module.mix(batch)
    return -(targets_BK * logits_BK.log_softmax(dim=1)).sum(dim=1)


def select_samples(batch: Batch, rows: list[int]) -> Batch:
    """Return a batch of these rows alone."""
    return batch._replace(
        images_BCHW=batch.images_BCHW[rows],
        labels_B=batch.labels_B[rows],
        ids_B=batch.ids_B[rows],
    )
