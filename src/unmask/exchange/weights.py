"""Weights under this project's names, the sizes they imply, and what was converted."""

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from typing import Literal

import torch
from torch import Tensor

from unmask.decoder import Decoder
from unmask.encoder import Encoder
from unmask.heads import Pool

# official: of github.com/facebookresearch/mae; hf: Hugging Face; safetensors and
# checkpoint: of this project.
Layout = Literal["official", "timm", "hf", "safetensors", "checkpoint"]


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

    grid: (rows, columns) of patches.
    """

    channels: int
    patch_size: int
    grid: tuple[int, int]
    encoder: Stack
    decoder: Stack | None


@dataclass(frozen=True)
class Weights:
    """Tensors of a model as they were read, dtype included.

    head: a classifier's fc_norm, norm (a probe's BatchNorm) and head. pool: the feature
    that the head classifies; None without a head. The encoder has no `norm` where a
    foreign classifier normalises after pooling (`fc_norm`) instead.
    """

    encoder: dict[str, Tensor]
    decoder: dict[str, Tensor] | None
    head: dict[str, Tensor] | None
    geometry: Geometry
    layout: Layout
    pool: Pool | None

    def named_tensors(self) -> dict[str, Tensor]:
        """Return all tensors in one dictionary.

        Its names are encoder.*, decoder.*, and those of the head as they are.
        """
        named = {f"encoder.{name}": value for name, value in self.encoder.items()}
        for name, value in (self.decoder or {}).items():
            named[f"decoder.{name}"] = value
        return named | (self.head or {})


@dataclass(frozen=True)
class Report:
    """What became of each tensor; a tensor without an explanation is an error.

    matched: names of tensors that are the same bit for bit. reshaped: what changed.
    missing: why a tensor may be missing, and what takes its place. dropped: why it is
    not needed.
    """

    matched: tuple[str, ...] = ()
    reshaped: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def expected_shapes(geometry: Geometry) -> dict[str, torch.Size]:
    """Return names and shapes of the tensors of a model of these sizes."""
    # The models themselves are asked, on the meta device: they take no memory there.
    with torch.device("meta"):
        parts: dict[str, Encoder | Decoder] = {"encoder": build_encoder(geometry)}
        if geometry.decoder:
            # It predicts the pixels of a patch; other targets have no foreign layout.
            values = geometry.patch_size**2 * geometry.channels
            sizes = astuple(geometry.decoder)
            width = geometry.encoder.width
            parts["decoder"] = Decoder(geometry.grid, width, values, *sizes)
    return {
        f"{part}.{name}": value.shape
        for part, model in parts.items()
        for name, value in model.state_dict().items()
    }


def build_encoder(geometry: Geometry) -> Encoder:
    """Return an encoder of that geometry, with new weights."""
    sizes = astuple(geometry.encoder)
    return Encoder(geometry.grid, geometry.patch_size, geometry.channels, *sizes)
