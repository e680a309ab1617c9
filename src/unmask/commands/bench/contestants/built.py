"""What each contestant is to the step benchmark, and the same weights in all."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from unmask.exchange.kernels import split_qkv, to_conv_kernel
from unmask.exchange.names import (
    PATCH_KERNEL,
    name_table,
    normalise_name,
    translate_name,
)
from unmask.exchange.sizes import Layout

# MAE's Table 8; the rate is constant, since it does not matter for speed
LEARNING_RATE = 1e-4
WEIGHT_DECAY = 0.05
BETAS = (0.9, 0.95)

Loss = Callable[[Float[Tensor, "B C H W"], Float[Tensor, "B L"]], Float[Tensor, ""]]


class Built(NamedTuple):
    """Hold a model, its loss, and what makes the optimiser that its users train with.

    loss: of images, and of noise that decides which patches are hidden: those of the
    highest. state_names: gives this project's spelling of a parameter's name in the
    layout. optimizer: what to call it in tables.
    """

    model: nn.Module
    loss: Loss
    make_optimizer: Callable[[nn.Module], Optimizer]
    optimizer: str
    layout: Layout = "safetensors"
    state_name: Callable[[str], str] = str


def visible_patches(spec: dict[str, Any]) -> int:
    """Return how many patches the encoder sees: the same number in all contestants."""
    num_patches = (spec["image_size"] // spec["patch_size"]) ** 2
    return round(num_patches * (1 - spec["mask_ratio"]))


def truncated_ratio(spec: dict[str, Any]) -> float:
    """Return a mask ratio at which others, who round down, see as many patches."""
    num_patches = (spec["image_size"] // spec["patch_size"]) ** 2
    # half a patch above the whole number is far from where rounding would decide
    return 1 - (visible_patches(spec) + 0.5) / num_patches


def decoder_mlp_ratio(spec: dict[str, Any]) -> float:
    return spec["decoder"]["mlp_ratio"] or spec["model"]["mlp_ratio"]


@torch.no_grad()
def copy_weights(weights: dict[str, Tensor], built: Built, patch_size: int) -> None:
    """Copy this project's weights into another's model.

    Raises ValueError where a trained parameter has no name here: another version would
    compute something else.
    """
    table = name_table(built.layout, probe=False)
    kernel = to_conv_kernel(weights[PATCH_KERNEL], patch_size)
    named = weights | {PATCH_KERNEL: kernel}
    if built.layout == "hf":
        named = split_qkv(named)
    theirs = {translate_name(name, table): value for name, value in named.items()}
    unknown = []
    for name, parameter in built.model.named_parameters():
        value = theirs.get(normalise_name(built.state_name(name), built.layout))
        if value is None or value.shape != parameter.shape:
            unknown.append(name)
        else:
            parameter.copy_(value)
    if unknown:
        raise ValueError(
            f"this version of it has parameters that unmask does not know:"
            f" {', '.join(unknown)}"
        )
