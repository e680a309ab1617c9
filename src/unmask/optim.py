"""Optimisers of the paper's recipes (Tables 8 to 11) and their learning rates."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from timm.optim import Lars, param_groups_layer_decay, param_groups_weight_decay
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


def scaled_lr(base_lr: float, batch_size: int) -> float:
    """Scale a rate that is given per 256 images to the batch (Goyal et al. 2017)."""
    return base_lr * batch_size / 256


def warmup_cosine(
    step: int, warmup_steps: int, total_steps: int, floor: float = 0.0
) -> float:
    """Return the factor on the peak rate at `step`.

    Linear from 0 to 1 in the warm-up, then half a cosine down to `floor`.
    """
    if step < warmup_steps:
        return step / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


MakeOptimizer = Callable[[nn.Module], tuple[Optimizer, LambdaLR]]


def scheduled_by_step(optimizer: Optimizer, schedule: LambdaLR) -> dict[str, Any]:
    """Return what `configure_optimizers` returns: the schedule counts steps."""
    # Lightning counts epochs by default.
    lr_scheduler = {"scheduler": schedule, "interval": "step"}
    return {"optimizer": optimizer, "lr_scheduler": lr_scheduler}


@dataclass(frozen=True)
class OptimizerRecipe:
    """How one stage is optimised; calling it makes the optimiser and its schedule.

    Steps are optimiser steps; batch_size is the effective one. decay_tokens: whether
    the class token and learned positions are decayed; the official port does so in
    pretraining and not in fine-tuning. layer_decay: a block's rate over that of the
    block after it (BEiT; embedding and positions have the lowest rate, the head the
    full one). min_lr: the head's rate at the end of the cosine.
    """

    optimizer: Literal["adamw", "lars"]
    base_lr: float
    batch_size: int
    weight_decay: float
    betas: tuple[float, float]
    warmup_steps: int
    total_steps: int
    decay_tokens: bool = True
    layer_decay: float = 1.0
    min_lr: float = 0.0

    def __call__(self, model: nn.Module) -> tuple[Optimizer, LambdaLR]:
        """Return the optimiser of the model's trainable parameters and its schedule."""
        make = self._adamw if self.optimizer == "adamw" else self._lars
        optimizer = make(model, self.peak_lr)
        # LambdaLR would save the attributes of a callable object in checkpoints, but
        # not those of a lambda
        return optimizer, LambdaLR(optimizer, lambda step: self.lr_factor(step))

    @property
    def peak_lr(self) -> float:
        return scaled_lr(self.base_lr, self.batch_size)

    def lr_factor(self, step: int) -> float:
        """Return the factor on every group's peak rate at `step`."""
        # One factor for all groups: with layer decay a block's floor is lower than
        # min_lr in the same proportion as its rate, as in the official port.
        floor = min(1.0, self.min_lr / self.peak_lr)
        return warmup_cosine(step, self.warmup_steps, self.total_steps, floor)

    def _adamw(self, model: nn.Module, lr: float) -> Optimizer:
        """Decay all parameters but biases and 1-D ones."""
        tokens = [
            name
            for name, _ in model.named_parameters()
            if name.endswith(("cls_token", "pos_embed"))
        ]
        undecayed = () if self.decay_tokens else tokens
        if self.layer_decay < 1:
            groups = param_groups_layer_decay(
                model, self.weight_decay, undecayed, layer_decay=self.layer_decay
            )
            # timm's own schedulers read lr_scale; torch's do not, and layer decay would
            # silently have no effect
            groups = [{**group, "lr": lr * group["lr_scale"]} for group in groups]
        else:
            groups = param_groups_weight_decay(
                model, self.weight_decay, no_weight_decay_list=undecayed
            )
        return AdamW(groups, lr=lr, betas=self.betas, fused=True)

    def _lars(self, model: nn.Module, lr: float) -> Optimizer:
        """Apply trust ratios (and weight decay) to matrices only."""
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        plain = () if self.decay_tokens else ("cls_token", "pos_embed")
        adapted = [p for name, p in trained if p.ndim > 1 and not name.endswith(plain)]
        others = [p for name, p in trained if p.ndim <= 1 or name.endswith(plain)]
        # By default timm adapts only where weight_decay > 0, and Table 10 has none:
        # without always_adapt this would be plain SGD.
        groups = [
            {
                "params": adapted,
                "weight_decay": self.weight_decay,
                "always_adapt": True,
            },
            {"params": others, "weight_decay": 0.0, "always_adapt": False},
        ]
        return Lars(groups, lr=lr, momentum=self.betas[0])
