"""Who is compared with whom in the step benchmark. Imports no torch."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

from unmask.config.hardware import Precision

Implementation = Literal["unmask", "official", "transformers", "lightly"]
OURS: Implementation = "unmask"
# optimisers
FUSED = "AdamW, fused"
PLAIN = "AdamW"


class Source(NamedTuple):
    """Say where an implementation comes from.

    package: without which it does not run, and whose version is shown. requirement:
    what pip takes. attentions: its settings, the default first.
    """

    title: str
    package: str
    requirement: str
    attentions: tuple[str, ...]


SOURCES: dict[Implementation, Source] = {
    OURS: Source("unmask", "torch", "torch", ("auto",)),
    # its own blocks are timm's: fused by default now, plain products in timm 0.3
    "official": Source("official code", "timm", "timm", ("sdpa", "eager")),
    "transformers": Source(
        "transformers ViTMAE", "transformers", "transformers>=5", ("sdpa", "eager")
    ),
    "lightly": Source("lightly MAE", "lightly", "lightly>=1.6", ("sdpa", "eager")),
}


@dataclass(frozen=True)
class Settings:
    """Name what makes our step faster; by default all of it, as training has it.

    keeps_memory: glibc's mallopt. blocks, linear: of unmask.kernels, or "measured".
    measures_attention: or else torch's fused kernel.
    """

    keeps_memory: bool = True
    blocks: Literal["merged", "timm"] = "merged"
    linear: Literal["torch", "onednn", "measured"] = "measured"
    measures_attention: bool = True
    optimizer: str = FUSED
    compiled: bool = False


NO_TRICKS = Settings(
    keeps_memory=False,
    blocks="timm",
    linear="torch",
    measures_attention=False,
    optimizer=PLAIN,
)
# each alone; oneDNN's products are called by the merged blocks
TRICKS: dict[str, Settings] = {
    "no tricks": NO_TRICKS,
    "fused AdamW": replace(NO_TRICKS, optimizer=FUSED),
    "freed memory kept": replace(NO_TRICKS, keeps_memory=True),
    "attention measured": replace(NO_TRICKS, measures_attention=True),
    "blocks merged": replace(NO_TRICKS, blocks="merged"),
    "merged, oneDNN": replace(NO_TRICKS, blocks="merged", linear="onednn"),
    "blocks compiled": replace(NO_TRICKS, compiled=True),
}
# oneDNN computes products of bfloat16 in any case
FLOAT32_TRICKS = {"merged, oneDNN"}


@dataclass(frozen=True)
class Entry:
    """One contestant: an implementation in one setting.

    settings: of ours alone. trick: what they are called where they are not the usual.
    """

    implementation: Implementation
    precision: Precision
    attention: str
    settings: Settings = Settings()
    trick: str = ""

    @property
    def title(self) -> str:
        """Return the name in tables."""
        if self.implementation == OURS:
            return self.trick or OURS
        return f"{self.implementation} {self.attention}"

    @property
    def is_reference(self) -> bool:
        """Tell whether others are compared with this one."""
        return self.implementation == OURS and not self.trick


def list_entries(spec: dict[str, Any]) -> list[Entry]:
    """Return all that can take part, ours first in each precision."""
    entries = []
    for precision in spec["precisions"]:
        for implementation in _present(spec):
            for attention in SOURCES[implementation].attentions:
                entries.append(Entry(implementation, precision, attention))
        if spec["tricks"]:
            entries += [
                Entry(OURS, precision, "auto", settings, name)
                for name, settings in TRICKS.items()
                if precision == "32-true" or name not in FLOAT32_TRICKS
            ]
    return entries


def _present(spec: dict[str, Any]) -> Iterator[Implementation]:
    yield OURS
    if spec["official"]:
        yield "official"
    for peer in spec["peers"]:
        if find_spec(SOURCES[peer].package):
            yield peer


def absence_notes(spec: dict[str, Any]) -> list[str]:
    """Return a line for each implementation that does not take part: what to type."""
    notes = [
        f"{SOURCES[peer].title} is left out, as {SOURCES[peer].package} is not"
        f" installed: pip install '{SOURCES[peer].requirement}'"
        for peer in spec["peers"]
        if not find_spec(SOURCES[peer].package)
    ]
    if not spec["official"]:
        notes.append(
            "The official code is left out: git clone"
            " https://github.com/facebookresearch/mae, then official=PATH"
        )
    return notes
