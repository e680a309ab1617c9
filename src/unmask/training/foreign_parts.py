"""Samplers and targets of the user's are tried on two images before a stage starts."""

import math
from typing import Any

import torch

from unmask.config.checks import ConfigError
from unmask.config.groups import ForeignPart
from unmask.config.schema import Config
from unmask.masking import Masking
from unmask.randomness import make_key
from unmask.targets import AnyTarget, targets_at
from unmask.training import build

NUM_IMAGES = 2


def check_foreign_parts(config: Config) -> None:
    """Raise ConfigError where a sampler or target of the user's does not work."""
    parts = {"masking": config.masking, "target": config.target}
    checks = {"masking": _check_masking, "target": _check_target}
    for key, part in parts.items():
        if not isinstance(part, ForeignPart):
            continue
        try:
            checks[key](config)
        # code of the user's may raise anything
        except Exception as error:
            reason = str(error) if type(error) is ValueError else repr(error)
            raise ConfigError(
                f"{key}._target_ = {part.target_}: {reason}; docs/extending.md shows"
                f" what a {'sampler' if key == 'masking' else key} has"
            ) from error


def _check_masking(config: Config) -> None:
    """Raise ValueError unless each image has its own mask, of one size."""
    sampler = build.build_masking(config)
    key, ids = make_key(config.seed, "mask"), torch.arange(NUM_IMAGES)
    masking: Any = sampler(key, ids, 0)
    if not isinstance(masking, Masking):
        raise ValueError(f"it returns {type(masking).__name__}, not a Masking")
    num_patches = math.prod(config.grid)
    order_BL = torch.cat([masking.visible_BV, masking.hidden_BM], dim=1)
    visible = masking.visible_BV.shape[1]
    if not 0 < visible < num_patches:
        raise ValueError(f"it leaves {visible} of {num_patches} patches visible")
    expected_BL = torch.arange(num_patches).expand(NUM_IMAGES, -1)
    if order_BL.shape != expected_BL.shape or (order_BL.sort()[0] != expected_BL).any():
        raise ValueError(
            f"visible_BV and hidden_BM are {[*order_BL.shape]} indices, and not each"
            f" of {num_patches} patches once in each of {NUM_IMAGES} images"
        )
    hidden_BL = torch.zeros_like(order_BL, dtype=torch.bool)
    hidden_BL.scatter_(1, masking.hidden_BM, True)
    if not torch.equal(hidden_BL, masking.hidden_BL):
        raise ValueError("hidden_BL marks other patches than hidden_BM lists")
    alone = sampler(key, ids[1:], 0)
    if not torch.equal(alone.visible_BV, masking.visible_BV[1:]):
        raise ValueError(
            "the mask of an image changes from call to call, or with the other images"
            " of the batch; draw it from key, epoch and id alone (unmask.randomness)"
        )


def _check_target(config: Config) -> None:
    """Raise ValueError unless the target gives what the decoder is to predict."""
    data = config.data
    assert data.patch_size is not None
    target = build.build_target(config)
    if not isinstance(target, AnyTarget):
        missing = {
            "needs_whole_images",
            "num_outputs",
            "to_pixels",
            "loss",
        }.difference(dir(target))
        raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    images_BCHW = torch.rand(NUM_IMAGES, data.channels, *data.image_size)
    index_BM = torch.arange(math.prod(config.grid)).expand(NUM_IMAGES, -1)
    values = targets_at(target, images_BCHW, index_BM, data.patch_size)
    outputs = target.num_outputs(data.patch_size, data.channels)
    predicted = torch.rand(*index_BM.shape, outputs)
    if values.shape[:2] != index_BM.shape:
        raise ValueError(
            f"its values have the shape {[*values.shape]}, and not"
            f" {[*index_BM.shape]} or {[*index_BM.shape, outputs]}"
        )
    loss = target.loss(predicted, values)
    if loss.shape or not loss.isfinite():
        raise ValueError(f"its loss is {loss}, and not one finite number")
