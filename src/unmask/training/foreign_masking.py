"""A sampler of the user's is tried on a few images, before anything expensive."""

import math
from typing import Any

import torch

from unmask.config.schema import Config
from unmask.masking import AnyMasking, Masking
from unmask.randomness import make_key
from unmask.training import build

NUM_IMAGES = 3
# a count that differs in every second draw is seen but for 1 in 65,536
NUM_DRAWS = 16


def check_masking(config: Config) -> None:
    """Raise ValueError unless each image has its own mask, all of one size."""
    sampler = build.build_masking(config)
    if not callable(sampler):
        raise ValueError("it lacks __call__")
    key, ids = make_key(config.seed, "mask"), torch.arange(NUM_IMAGES)
    masking = sampler(key, ids, 0)
    _check_indices(masking, math.prod(config.grid))
    _check_counts(sampler, config, masking.visible_BV.shape[1])
    together = masking.hidden_BL[1:]
    for again in (
        sampler(key, ids, 0).hidden_BL[1:],
        sampler(key, ids[1:], 0).hidden_BL,
    ):
        if not torch.equal(again, together):
            raise ValueError(
                "the mask of an image changes from call to call, or with the other"
                " images of the batch; draw it from key, epoch and id alone"
                " (unmask.randomness)"
            )


def _check_indices(masking: Any, num_patches: int) -> None:
    """Raise ValueError unless every patch of every image is visible or hidden, once."""
    if not isinstance(masking, Masking):
        raise ValueError(
            f"it returns {type(masking).__name__}, not a Masking (unmask.masking)"
        )
    visible_BV, hidden_BM, hidden_BL = masking
    for name, indices in (("visible_BV", visible_BV), ("hidden_BM", hidden_BM)):
        if indices.dtype != torch.int64 or indices.ndim != 2:
            raise ValueError(
                f"{name} is {indices.dtype} of shape {[*indices.shape]}, not int64"
                f" indices of {NUM_IMAGES} images"
            )
    if not 0 < visible_BV.shape[1] < num_patches:
        raise ValueError(
            f"it leaves {visible_BV.shape[1]} of {num_patches} patches visible; leave 1"
            f" to {num_patches - 1}"
        )
    order_BL = torch.cat([visible_BV, hidden_BM], dim=1)
    expected_BL = torch.arange(num_patches).expand(NUM_IMAGES, -1)
    if order_BL.shape != expected_BL.shape or (order_BL.sort()[0] != expected_BL).any():
        raise ValueError(
            f"visible_BV and hidden_BM are {[*order_BL.shape]} indices, and not each of"
            f" {num_patches} patches once in each of {NUM_IMAGES} images"
        )
    expected_hidden_BL = torch.zeros_like(order_BL, dtype=torch.bool)
    expected_hidden_BL.scatter_(1, hidden_BM, True)
    if hidden_BL.dtype != torch.bool:
        raise ValueError(f"hidden_BL is {hidden_BL.dtype}, not bool")
    if not torch.equal(expected_hidden_BL, hidden_BL):
        raise ValueError("hidden_BL marks other patches than hidden_BM lists")


def _check_counts(sampler: AnyMasking, config: Config, visible: int) -> None:
    """Raise ValueError where the count differs by image, epoch or seed."""
    for epoch in range(1, NUM_DRAWS + 1):
        key = make_key(config.seed + epoch - 1, "mask")
        ids = torch.arange(NUM_IMAGES) + 10_000 * (epoch - 1)
        found = sampler(key, ids, epoch).visible_BV.shape[1]
        if found != visible:
            raise ValueError(
                f"it leaves {visible} patches visible in epoch 0 and {found} in epoch"
                f" {epoch}; all images must have equally many, in every epoch"
            )
