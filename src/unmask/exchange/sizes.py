"""The sizes of a model, and the names and shapes that follow from them."""

import math
from dataclasses import dataclass
from typing import Literal

# official: of github.com/facebookresearch/mae; hf: Hugging Face; safetensors and
# checkpoint: of this project.
Layout = Literal["official", "timm", "hf", "safetensors", "checkpoint"]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Stack:
    """Sizes of a stack of transformer blocks."""

    width: int
    depth: int
    heads: int
    mlp_ratio: float


@dataclass(frozen=True)
class Geometry:
    """Sizes that a model must have for the weights to fit.

    grid: (rows, columns) of patches. class_tokens: of the encoder.
    """

    channels: int
    patch_size: int
    grid: tuple[int, int]
    encoder: Stack
    decoder: Stack | None
    class_tokens: int = 1


def expected_shapes(geometry: Geometry) -> dict[str, Shape]:
    """Return names and shapes of the tensors of a model of these sizes.

    A test compares them with the models. The decoder predicts the pixels of a patch;
    other targets have no foreign layout.
    """
    width = geometry.encoder.width
    values = geometry.patch_size**2 * geometry.channels
    patches, classes = math.prod(geometry.grid), geometry.class_tokens
    shapes: dict[str, Shape] = {
        "encoder.cls_token": (1, classes, width),
        "encoder.pos_embed": (1, classes + patches, width),
        **_linear("encoder.patch_embed", values, width),
        **_blocks("encoder", geometry.encoder),
        **_norm("encoder.norm", width),
    }
    decoder = geometry.decoder
    if decoder:
        shapes |= {
            "decoder.mask_token": (1, 1, decoder.width),
            # class tokens share one position, which is zero
            "decoder.pos_embed": (1, 1 + patches, decoder.width),
            **_linear("decoder.embed", width, decoder.width),
            **_blocks("decoder", decoder),
            **_norm("decoder.norm", decoder.width),
            **_linear("decoder.head", decoder.width, values),
        }
    return shapes


def _blocks(part: str, stack: Stack) -> dict[str, Shape]:
    width, hidden = stack.width, int(stack.width * stack.mlp_ratio)
    shapes: dict[str, Shape] = {}
    for i in range(stack.depth):
        block = f"{part}.blocks.{i}"
        shapes |= _norm(f"{block}.norm1", width)
        shapes |= _linear(f"{block}.attn.qkv", width, 3 * width)
        shapes |= _linear(f"{block}.attn.proj", width, width)
        shapes |= _norm(f"{block}.norm2", width)
        shapes |= _linear(f"{block}.mlp.fc1", width, hidden)
        shapes |= _linear(f"{block}.mlp.fc2", hidden, width)
    return shapes


def _linear(stem: str, inputs: int, outputs: int) -> dict[str, Shape]:
    return {f"{stem}.weight": (outputs, inputs), f"{stem}.bias": (outputs,)}


def _norm(stem: str, width: int) -> dict[str, Shape]:
    return {f"{stem}.weight": (width,), f"{stem}.bias": (width,)}
