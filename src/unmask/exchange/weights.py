"""What is exchanged: tensors under this project's names, the sizes they imply, and a report of what was done."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from unmask.decoder import Decoder
from unmask.encoder import Encoder
from unmask.heads import Pool

Layout = Literal["official", "timm", "hf", "safetensors", "checkpoint"]


@dataclass(frozen=True)
class Stack:
    """The size of a transformer."""

    width: int
    depth: int
    heads: int
    mlp_ratio: float


@dataclass(frozen=True)
class Geometry:
    """What a model must be for the weights to fit; `grid` is (rows, columns) of patches."""

    channels: int
    patch_size: int
    grid: tuple[int, int]
    encoder: Stack
    decoder: Stack | None


@dataclass(frozen=True)
class Weights:
    """Tensors as read, dtype included; `head` holds a classifier's fc_norm, norm (a probe's BatchNorm) and head.

    The encoder has no `norm` where a foreign classifier normalises after pooling (`fc_norm`) instead.
    """

    encoder: dict[str, Tensor]
    decoder: dict[str, Tensor] | None
    head: dict[str, Tensor] | None
    geometry: Geometry
    layout: Layout
    pool: Pool | None  # what the head classifies; None without a head

    def named(self) -> dict[str, Tensor]:
        """All tensors in one dictionary: encoder.*, decoder.*, and the head's names as they are."""
        encoder = {f"encoder.{name}": value for name, value in self.encoder.items()}
        decoder = {
            f"decoder.{name}": value for name, value in (self.decoder or {}).items()
        }
        return encoder | decoder | (self.head or {})


@dataclass(frozen=True)
class Report:
    """What happened to each tensor; whatever has no explanation was an error before a report could be made."""

    matched: tuple[str, ...] = ()  # one to one, bit for bit, perhaps under another name
    # name: old shape -> new shape
    reshaped: Mapping[str, str] = field(default_factory=dict)
    # name: why it may be, and what stands in its place
    missing: Mapping[str, str] = field(default_factory=dict)
    # name: why it is not needed
    dropped: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def shapes(geometry: Geometry) -> dict[str, torch.Size]:
    """Names and shapes of the encoder and decoder of this size: the models' own, without their memory."""
    size, encoder, decoder = (
        geometry.patch_size**2 * geometry.channels,
        geometry.encoder,
        geometry.decoder,
    )
    with torch.device("meta"):
        parts: dict[str, Encoder | Decoder] = {
            "encoder": Encoder(
                geometry.grid,
                geometry.patch_size,
                geometry.channels,
                encoder.width,
                encoder.depth,
                encoder.heads,
                encoder.mlp_ratio,
            )
        }
        if decoder:
            parts["decoder"] = Decoder(
                geometry.grid,
                encoder.width,
                size,
                decoder.width,
                decoder.depth,
                decoder.heads,
                decoder.mlp_ratio,
            )
    return {
        f"{part}.{name}": v.shape
        for part, model in parts.items()
        for name, v in model.state_dict().items()
    }
