"""Mixup and cutmix of a batch, by timm, as a function of (seed, epoch, sample).

Mixup: Zhang et al. 2018, arXiv 1710.09412; cutmix: Yun et al. 2019, arXiv 1905.04899.
"""

import torch
from jaxtyping import Float
from timm.data.mixup import Mixup
from torch import Tensor

from unmask.data.loading.batch import Batch
from unmask.randomness import Key, random_words, seeded_generators


def make_mixup(
    mixup: float, cutmix: float, smoothing: float, classes: int
) -> Mixup | None:
    """Return timm's mixing with these alphas; None where both are zero."""
    if not mixup and not cutmix:
        return None
    return Mixup(mixup, cutmix, label_smoothing=smoothing, num_classes=classes)


def mix_batch(
    mixup: Mixup, batch: Batch, key: Key, mix_size: int | None
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B K"]]:
    """Mix images and labels; return the images and their soft targets.

    Each group of `mix_size` images (None: the batch) is mixed with itself in reverse
    order, in a way that depends on (seed, epoch, first sample) alone: several ranks
    mix a batch as one process does.
    """
    size = mix_size or len(batch.ids_B)
    # timm mixes in place, and the batch is still needed as it came.
    images_BCHW = batch.images_BCHW.clone()
    targets = []
    groups = zip(
        images_BCHW.split(size),
        batch.labels_B.split(size),
        batch.ids_B.split(size),
        strict=True,
    )
    for images_GCHW, labels_G, ids_G in groups:
        (state,) = random_words(key, batch.epoch, ids_G[:1], 2).tolist()
        # timm draws from numpy's global generator.
        with seeded_generators(state):
            mixed_GCHW, targets_GK = mixup(images_GCHW, labels_G)
        images_GCHW.copy_(mixed_GCHW)
        targets.append(targets_GK)
    return images_BCHW, torch.cat(targets)
