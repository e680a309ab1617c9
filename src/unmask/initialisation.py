"""Initial weights, each a function of (seed, parameter name).

A deeper decoder therefore leaves the encoder's initial weights unchanged.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from unmask.randomness import make_key, normal_tensor, uniform_tensor

_skip = False


@contextmanager
def skip_initialisation() -> Iterator[None]:
    """Leave the weights of models that are built inside as torch made them.

    Enough for models that only serve to count what they cost.
    """
    global _skip
    before, _skip = _skip, True
    try:
        yield
    finally:
        _skip = before


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Initialise as the official port: Linear layers xavier uniform, biases zero.

    LayerNorms start as the identity, class and mask tokens normal with std 0.02. Fixed
    positions keep their values. A part with a method `initialise(seed)` may then do it
    in a way of its own.
    """
    if _skip:
        return
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            # queries, keys and values count as one matrix, as in the official port
            bound = math.sqrt(6 / (module.in_features + module.out_features))
            key = make_key(seed, "init", f"{name}.weight")
            uniform = uniform_tensor(key, tuple(module.weight.shape))
            module.weight.copy_((2 * uniform - 1) * bound)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.LayerNorm):
            module.weight.fill_(1)
            module.bias.zero_()
    # not truncated, as in the official port
    for name, parameter in model.named_parameters():
        if name.endswith(("cls_token", "mask_token")):
            initialise_normal(parameter, std=0.02, seed=seed, name=name)
    for module in model.modules():
        if callable(own := getattr(module, "initialise", None)):
            own(seed)


@torch.no_grad()
def initialise_normal(
    parameter: nn.Parameter, std: float, seed: int, name: str
) -> None:
    """Draw a parameter from a normal distribution; `name` is part of the draws' key."""
    if _skip:
        return
    normal = normal_tensor(make_key(seed, "init", name), tuple(parameter.shape))
    parameter.copy_(normal * std)
