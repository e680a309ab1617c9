"""Initial weights, each a function of (seed, parameter name): a deeper decoder leaves the encoder's weights alone."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from unmask.randomness import make_key, normal_like, uniform_like

drawing = True  # whether weights get values


@contextmanager
def without_values() -> Iterator[None]:
    """Models that are built within keep whatever torch gave them: enough for counting what they cost."""
    global drawing
    before, drawing = drawing, False
    try:
        yield
    finally:
        drawing = before


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """The official init: xavier uniform for every Linear (qkv as one matrix), zero bias, LayerNorm 1/0.

    Class and mask tokens are normal with std 0.02; fixed positions keep their values.
    """
    if not drawing:
        return
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            bound = math.sqrt(6 / (module.in_features + module.out_features))
            drawn = uniform_like(
                make_key(seed, "init", f"{name}.weight"), tuple(module.weight.shape)
            )
            module.weight.copy_((2 * drawn - 1) * bound)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.LayerNorm):
            module.weight.fill_(1)
            module.bias.zero_()
    for name, parameter in model.named_parameters():
        if name.endswith(("cls_token", "mask_token")):
            initialise_normal(parameter, std=0.02, seed=seed, name=name)


@torch.no_grad()
def initialise_normal(
    parameter: nn.Parameter, std: float, seed: int, name: str
) -> None:
    """Normal weights of the given spread, named for their key."""
    if not drawing:
        return
    parameter.copy_(
        normal_like(make_key(seed, "init", name), tuple(parameter.shape)) * std
    )
