"""Learning rates: linear scaling with the batch, warm-up and half cosine by optimiser step (MAE Tables 8-10)."""

import math


def scaled_lr(base_lr: float, batch_size: int) -> float:
    """The linear scaling rule: base rates are given per 256 images (Goyal et al. 2017)."""
    return base_lr * batch_size / 256


def warmup_cosine(step: int, warmup_steps: int, total_steps: int, floor: float = 0.0) -> float:
    """The factor on the peak rate at `step`: linear from 0, then half a cosine down to `floor`."""
    if step < warmup_steps:
        return step / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
