"""What the parts of the GPU benchmark get and give back. Imports no torch."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from unmask.commands.bench.arguments import Bench
from unmask.commands.cli import parse

PartName = Literal["guards", "parity", "fsdp", "small", "feeding", "models"]
# the cheap ones first: what the time does not allow is missing at the end
PARTS: dict[PartName, str] = {
    "guards": "What checkpoints, logs and checks add to a step",
    "parity": "Loss in bfloat16 beside float32",
    "fsdp": "A sharded model on one device",
    "small": "ViT-Ti on images of CIFAR's size, in the device's memory",
    "feeding": "Reading JPEGs fast enough",
    "models": "ViT-B, ViT-L and ViT-H, eager and compiled",
}


class Report(NamedTuple):
    """Hold a table of a part, and sentences about it."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Sizes:
    """Hold how much is measured.

    models: with arguments of src/bench.py. batch: where one is enough. images: of
    CIFAR's size. photos: JPEGs that are written and read, of this side in pixels.
    """

    models: dict[str, tuple[str, ...]]
    batches: tuple[int, ...]
    batch: int
    rounds: int
    images: int
    small_batch: int
    photos: int
    photo_side: int
    parity_steps: int


FULL = Sizes(
    models={name: (f"model=mae_vit_{name}",) for name in "blh"},
    batches=(256, 64, 512),
    batch=256,
    rounds=10,
    images=50_000,
    small_batch=1024,
    photos=2048,
    photo_side=448,
    parity_steps=300,
)
TINY_MODEL = (
    "model=mae_vit_ti",
    "model.depth=1",
    "decoder.depth=1",
    "image_size=32",
    "patch_size=8",
)
SMALLEST = Sizes(
    models={"ti": TINY_MODEL},
    batches=(2,),
    batch=2,
    rounds=1,
    images=64,
    small_batch=16,
    photos=24,
    photo_side=64,
    parity_steps=3,
)


@dataclass(frozen=True)
class PartRequest:
    """Ask a process for one part. ends: when its time is over, by time.time()."""

    name: PartName
    sizes: Sizes
    device: str
    ends: float

    @property
    def seconds_left(self) -> float:
        return self.ends - time.time()

    def spec(self, *typed: str) -> dict[str, Any]:
        """Return the arguments of the step benchmark with these."""
        arguments = ["step", f"device={self.device}", "peers=[]", *typed]
        return parse(Bench, arguments, "subject").model_dump()

    @property
    def first_model(self) -> tuple[str, ...]:
        return next(iter(self.sizes.models.values()))

    @property
    def small_model(self) -> tuple[str, ...]:
        """Return the arguments of a model for images of 32 pixels."""
        if self.sizes == SMALLEST:
            return TINY_MODEL
        return ("model=mae_vit_ti", "image_size=32", "patch_size=4")
