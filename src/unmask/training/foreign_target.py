"""A target of the user's is tried on two images, before anything expensive."""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unmask.config.schema import Config
from unmask.patches import gather_tokens, patchify
from unmask.randomness import make_key, uniform
from unmask.targets import AnyTarget, targets_at
from unmask.training import build

# of single images and of the same ones in a batch: products may be summed in another
# order
TOLERANCE = 1e-4
MEMBERS = ("needs_whole_images", "num_outputs", "to_pixels", "loss", "__call__")


def check_target(config: Config) -> None:
    """Raise ValueError unless the target gives what the decoder is to predict."""
    patch_size, channels = config.data.patch_size, config.data.channels
    assert patch_size is not None
    target = build.build_target(config)
    if missing := [name for name in MEMBERS if not hasattr(target, name)]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    note = getattr(target, "picture_note", "")
    if not isinstance(note, str):
        raise ValueError(f"picture_note is {note!r}, and not a sentence")
    outputs: Any = target.num_outputs(patch_size, channels)
    if not isinstance(outputs, int) or outputs < 1:
        raise ValueError(f"num_outputs returns {outputs!r}, and not a count")
    images_BCHW = sample_images(config)
    index_BM = torch.arange(math.prod(config.grid)).expand(len(images_BCHW), -1)
    values = targets_at(target, images_BCHW, index_BM, patch_size)
    _check_values(values, index_BM, outputs)
    again = targets_at(target, images_BCHW[1:], index_BM[1:], patch_size)
    if not torch.allclose(again, values[1:], TOLERANCE, TOLERANCE):
        raise ValueError(
            "the values of an image change from call to call, or with the other images"
            " of the batch"
        )
    predicted = torch.zeros(*index_BM.shape, outputs) + 0.1
    _check_loss(target, predicted, values)
    visible_BVP = gather_tokens(patchify(images_BCHW, patch_size), index_BM[:, :1])
    _check_pixels(target, predicted, visible_BVP)


def sample_images(config: Config) -> Float[Tensor, "2 C H W"]:
    """Return two normalised images: one of a single colour, and one of noise.

    What divides by the deviation of a patch fails on the first.
    """
    channels, (height, width) = config.data.channels, config.data.image_size
    count = channels * height * width
    noise = uniform(make_key(0, "trial"), 0, torch.arange(1), count) - 0.5
    noise_1CHW = noise.view(1, channels, height, width)
    return torch.cat([torch.zeros_like(noise_1CHW), noise_1CHW])


def _check_values(values: Any, index_BM: Int[Tensor, "B M"], outputs: int) -> None:
    """Raise ValueError unless they are (B, M, T) finite numbers or (B, M) codes."""
    if not isinstance(values, Tensor):
        raise ValueError(f"it returns {type(values).__name__}, not a tensor of values")
    expected = [*index_BM.shape]
    shapes = (expected, [*expected, outputs])
    if [*values.shape] not in shapes:
        raise ValueError(
            f"its values have the shape {[*values.shape]}, and not {expected} (codes)"
            f" or {[*expected, outputs]} (num_outputs is {outputs})"
        )
    if not values.is_floating_point() and values.dtype != torch.int64:
        raise ValueError(
            f"its values are {values.dtype}; return floating-point numbers, or codes of"
            " torch.int64"
        )
    if values.is_floating_point() and not values.isfinite().all():
        raise ValueError(
            "its values are not finite for an image of one colour; add a small number"
            " to what it divides by"
        )


def _check_loss(target: AnyTarget, predicted: Tensor, values: Tensor) -> None:
    """Raise ValueError unless the loss is one finite number with a gradient."""
    predicted.requires_grad_()
    loss = target.loss(predicted, values)
    if not isinstance(loss, Tensor):
        raise ValueError(f"its loss is {type(loss).__name__}, not a tensor")
    if loss.shape:
        raise ValueError(
            f"its loss has the shape {[*loss.shape]}, and not one number; average it"
        )
    if not loss.isfinite():
        raise ValueError(f"its loss is {loss.item()}, and not finite")
    if not loss.requires_grad:
        raise ValueError("its loss has no gradient: it does not follow the predictions")
    loss.backward()
    if predicted.grad is None or not predicted.grad.isfinite().all():
        raise ValueError("the gradient of its loss is not finite")


def _check_pixels(
    target: AnyTarget, predicted: Tensor, visible_BVP: Float[Tensor, "B V P"]
) -> None:
    """Raise ValueError unless predictions can be drawn, or to_pixels is None."""
    if target.to_pixels is None:
        return
    drawn = target.to_pixels(predicted.detach(), visible_BVP)
    expected = [*predicted.shape[:2], visible_BVP.shape[2]]
    shape = [*drawn.shape] if isinstance(drawn, Tensor) else type(drawn).__name__
    if shape != expected:
        raise ValueError(
            f"to_pixels returns {shape}, and not pixels of shape {expected}; set"
            " to_pixels = None where predictions cannot be drawn"
        )
