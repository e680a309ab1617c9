"""Weights under this project's names, the sizes they imply, and what was converted."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from unmask.encoder import Encoder
from unmask.exchange.facts import Facts
from unmask.exchange.sizes import Geometry, Layout
from unmask.heads import Pool

NO_FACTS = Facts()


@dataclass(frozen=True)
class Weights:
    """Tensors of a model as they were read, dtype included.

    head: a classifier's fc_norm, norm (a probe's BatchNorm) and head. pool: the feature
    that the head classifies; None without a head. The encoder has no `norm` where a
    foreign classifier normalises after pooling (`fc_norm`) instead. facts: what else
    the file says of them.
    """

    encoder: dict[str, Tensor]
    decoder: dict[str, Tensor] | None
    head: dict[str, Tensor] | None
    geometry: Geometry
    layout: Layout
    pool: Pool | None
    facts: Facts = NO_FACTS

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
    not needed. load: the line that loads what was written.
    """

    matched: tuple[str, ...] = ()
    reshaped: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    load: str = ""


def build_encoder(geometry: Geometry) -> Encoder:
    """Return an encoder of that geometry, with new weights."""
    stack = geometry.encoder
    return Encoder(
        geometry.grid,
        geometry.patch_size,
        geometry.channels,
        stack.width,
        stack.depth,
        stack.heads,
        stack.mlp_ratio,
        geometry.class_tokens,
    )
