"""How far a probe's head is from converged, measured over its last epoch.

Where the cross-entropy of a linear head is smallest, its gradient is zero. The gradient
of one batch is mostly noise; over a whole epoch, with a rate that has almost decayed to
zero, the sum is that of all training images.
"""

from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.data.loading.batch import Batch
from unmask.distributed import collectives
from unmask.stages.convergence import CONVERGED, HEAD_GRADIENT, MAX_HEAD_GRADIENT


class HeadGradient(L.Callback):
    """Sum the gradient of a linear head's weights, and that of a head of zeros.

    steps_per_epoch: optimiser steps over which it is summed, at the end of the fit.
    """

    def __init__(self, head: nn.Linear, steps_per_epoch: int) -> None:
        self.head = head
        self.steps_per_epoch = steps_per_epoch
        self.total_KD = torch.zeros_like(head.weight)
        # of a head that knows nothing: all classes are as likely
        self.chance_KD = torch.zeros_like(head.weight)
        self.inputs_BD: Tensor | None = None
        self.logits_BK: Tensor | None = None

    def setup(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        self.hook = self.head.register_forward_hook(self._remember)

    def teardown(self, *_: Any, **__: Any) -> None:
        self.hook.remove()

    def _remember(self, head: nn.Module, inputs: tuple[Tensor], logits: Tensor) -> None:
        self.inputs_BD = inputs[0].detach().float()
        self.logits_BK = logits.detach().float()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        if trainer.global_step <= trainer.max_steps - self.steps_per_epoch:
            return
        assert self.inputs_BD is not None
        assert self.logits_BK is not None
        classes = self.logits_BK.shape[1]
        labels_BK = F.one_hot(batch.labels_B, classes).float()
        errors_BK = self.logits_BK.softmax(dim=1) - labels_BK
        self._add(self.total_KD, errors_BK)
        self._add(self.chance_KD, 1 / classes - labels_BK)

    def _add(self, total_KD: Tensor, errors_BK: Tensor) -> None:
        assert self.inputs_BD is not None
        total_KD += (errors_BK.T @ self.inputs_BD).to(total_KD)

    def metrics(self) -> dict[str, float]:
        """Return the norm as a share of that of a head of zeros, and what it means.

        All ranks call it: each has summed its own images.
        """
        total, chance = (
            float(sums_KD.norm()) for sums_KD in self.state_dict().values()
        )
        # without a step, or where all features are equal, there is nothing to tell
        if not chance:
            return {}
        share = total / chance
        return {HEAD_GRADIENT: share, CONVERGED: float(share <= MAX_HEAD_GRADIENT)}

    def _sums(self) -> dict[str, Tensor]:
        return {"total": self.total_KD, "chance": self.chance_KD}

    def state_dict(self) -> dict[str, Any]:
        # over all ranks, since rank zero's state alone is saved
        return {
            name: collectives.all_reduce_sum(sums_KD).cpu().clone()
            for name, sums_KD in self._sums().items()
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not collectives.is_rank_zero():
            return
        for name, sums_KD in self._sums().items():
            if name in state_dict:
                sums_KD.copy_(state_dict[name])
