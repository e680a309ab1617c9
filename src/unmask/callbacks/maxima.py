"""How large numbers get within a model, block by block; NaN where there is one."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from unmask.shards import whole

Plain = float | str  # JSON knows no NaN and no infinity: they are the texts "nan", "inf" and "-inf"


def plain(value: float) -> Plain:
    return value if math.isfinite(value) else str(value)


def of_parameters(module: nn.Module) -> dict[str, Plain]:
    """The largest absolute value of each parameter; where processes hold shares, all of them must ask."""
    return {name: plain(float(whole(value.detach()).abs().max())) for name, value in module.named_parameters()}


@torch.no_grad()
def of_activations(model: nn.Module, forward: Callable[[], object]) -> dict[str, Plain]:
    """The largest absolute value that goes into or comes out of the layers of each block, in order of their turn."""
    found: dict[str, Tensor] = {}

    def note(name: str, tensors: tuple[Any, ...]) -> None:
        for tensor in tensors:
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.numel():
                largest = tensor.detach().abs().max().float()
                found[name] = torch.maximum(found.get(name, largest), largest)  # unlike max() it hands NaN on

    layers = [(_block(name), layer) for name, layer in model.named_modules() if not list(layer.children())]
    handles = [
        layer.register_forward_hook(lambda _, given, made, name=name: note(name, (*given, made)))
        for name, layer in layers
    ]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return {name: plain(float(value)) for name, value in found.items()}


def _block(name: str) -> str:
    """encoder.blocks.3.mlp.fc1 belongs to encoder.blocks.3; a layer outside of blocks stands for itself."""
    parts = name.split(".")
    return ".".join(parts[: parts.index("blocks") + 2]) if "blocks" in parts else name
