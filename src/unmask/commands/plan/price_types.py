"""Prices of stages, runs and sweeps: FLOPs, images, time and disk."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from unmask.commands.plan.memory import Memory
from unmask.commands.plan.waiting import step_seconds
from unmask.config.datasets import DatasetSize
from unmask.config.hardware import GIB, Hardware, Precision
from unmask.config.schema import Config
from unmask.stages.fingerprint import StageSpec
from unmask.stages.sizes import ImageCounts
from unmask.training.flops import Flops


@dataclass(frozen=True)
class StagePrice:
    """Hold the price of one stage.

    per_image: FLOPs of one image; None for a stage that is not priced. flops: those of
    the whole stage. disk_bytes: the size of the checkpoints that stay. batch: images of
    a training step on all devices; 0 where none is made.
    """

    spec: StageSpec
    precision: Precision
    per_image: Flops | None
    images: ImageCounts
    flops: float
    disk_bytes: float
    batch: int = 0

    def seconds(self, hardware: Hardware) -> float:
        """Return the time on all devices, which are assumed to be evenly busy."""
        # t = FLOPs / (devices x peak x share of the peak) + steps x waiting
        speed = hardware.devices * hardware.flops_per_second(self.precision)
        seconds = self.flops / speed
        if self.batch and self.per_image is not None:
            images = self.batch / hardware.devices
            _, waiting = step_seconds(self.per_image, images, self.precision, hardware)
            seconds += self.images.trained / self.batch * waiting
        return seconds


@dataclass(frozen=True)
class TrainingStep:
    """Hold what one step of a stage's model takes, at the batch of its recipe.

    width: the encoder's. decoder: depth x width in words. batch: images of the step;
    device_batch: those on each of the devices that share it.
    """

    kind: str
    model: str
    width: int
    decoder: str | None
    per_image: Flops
    memory: Memory
    batch: int
    device_batch: int
    precision: Precision

    def micro_batch(self, memory_gib: float) -> int:
        """Return the largest part of the batch that fits a device; 0 if none does."""
        return self.memory.largest_divisor(memory_gib * GIB, self.device_batch)


@dataclass
class Cell:
    """Hold one run of a sweep. group: the experiment that it belongs to."""

    group: str
    config: Config
    size: DatasetSize
    prices: list[StagePrice] = field(default_factory=list)


def unique_stages(cells: Iterable[Cell]) -> list[StagePrice]:
    """Return every stage once.

    A stage that several cells need is trained by the first of them; the others read
    its result.
    """
    by_fingerprint: dict[str, StagePrice] = {}
    for cell in cells:
        for price in cell.prices:
            # the first one counts: features it shares with an earlier stage are free
            by_fingerprint.setdefault(price.spec.fingerprint, price)
    return list(by_fingerprint.values())


@dataclass(frozen=True)
class Total:
    """Hold sums over stages.

    trained, evaluated: images. seconds: None where the hardware is still to be
    measured.
    """

    stages: int
    trained: int
    evaluated: int
    flops: float
    seconds: float | None
    disk_bytes: float


def sum_prices(prices: list[StagePrice], hardware: Hardware) -> Total:
    seconds = None
    # before hardware=here is measured, its speed is not known
    if not hardware.needs_measuring:
        seconds = sum(price.seconds(hardware) for price in prices)
    return Total(
        len(prices),
        sum(price.images.trained for price in prices),
        sum(price.images.evaluated for price in prices),
        sum(price.flops for price in prices),
        seconds,
        sum(price.disk_bytes for price in prices),
    )
