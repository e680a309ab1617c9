"""Optimisers of the paper's recipes (Tables 8 to 11) and their schedule."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from timm.optim import Lars, param_groups_layer_decay, param_groups_weight_decay
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


def scaled_lr(base_lr: float, batch_size: int) -> float:
    """The linear scaling rule: base rates are given per 256 images (Goyal et al. 2017)."""
    return base_lr * batch_size / 256


def warmup_cosine(
    step: int, warmup_steps: int, total_steps: int, floor: float = 0.0
) -> float:
    """The factor on the peak rate at `step`: linear from 0, then half a cosine down to `floor`."""
    if step < warmup_steps:
        return step / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


MakeOptimizer = Callable[[nn.Module], tuple[Optimizer, LambdaLR]]


@dataclass(frozen=True)
class Recipe:
    """How one stage is optimised; steps are optimiser steps, batch_size is the effective one.

    decay_tokens: the official port decays class and mask tokens in pretraining, class token and positions not in
    fine-tuning. layer_decay: the rate of each block over that of the one after it (BEiT's ladder: embedding and
    positions lowest, the head at the full rate). min_lr: where the cosine ends, of the head.
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
        """The optimiser of the model's trainable parameters and its schedule by step."""
        lr = self.peak
        optimizer = (
            self._adamw(model, lr)
            if self.optimizer == "adamw"
            else self._lars(model, lr)
        )
        # a method would be pickled
        return optimizer, LambdaLR(optimizer, lambda step: self.factor(step))

    @property
    def peak(self) -> float:
        return scaled_lr(self.base_lr, self.batch_size)

    def factor(self, step: int) -> float:
        """On every group's peak rate: a floor given for the head shrinks with the ladder, as in the port."""
        return warmup_cosine(
            step, self.warmup_steps, self.total_steps, min(1.0, self.min_lr / self.peak)
        )

    def _adamw(self, model: nn.Module, lr: float) -> Optimizer:
        """No decay for biases and 1-D parameters."""
        tokens = [
            name
            for name, _ in model.named_parameters()
            if name.endswith(("cls_token", "pos_embed"))
        ]
        spared = () if self.decay_tokens else tokens
        if self.layer_decay < 1:
            groups = param_groups_layer_decay(
                model, self.weight_decay, spared, layer_decay=self.layer_decay
            )
            # timm's own schedulers read lr_scale; torch's do not, and the ladder would
            # be lost without a word
            groups = [{**group, "lr": lr * group["lr_scale"]} for group in groups]
        else:
            groups = param_groups_weight_decay(
                model, self.weight_decay, no_weight_decay_list=spared
            )
        return AdamW(groups, lr=lr, betas=self.betas, fused=True)

    def _lars(self, model: nn.Module, lr: float) -> Optimizer:
        """Trust ratios for matrices only.

        timm adapts only where weight_decay > 0 unless told otherwise, and Table 10 has none: without
        always_adapt this would be plain SGD.
        """
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        spared = () if self.decay_tokens else ("cls_token", "pos_embed")
        adapted = [p for name, p in trained if p.ndim > 1 and not name.endswith(spared)]
        others = [p for name, p in trained if p.ndim <= 1 or name.endswith(spared)]
        groups = [
            {
                "params": adapted,
                "weight_decay": self.weight_decay,
                "always_adapt": True,
            },
            {"params": others, "weight_decay": 0.0, "always_adapt": False},
        ]
        return Lars(groups, lr=lr, momentum=self.betas[0])
