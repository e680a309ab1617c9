"""What stages, runs and sweeps cost: FLOPs from the modules, images from the recipes, time from the hardware."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from unmask.commands.plan.hardware import GIB, Hardware, Precision
from unmask.commands.plan.memory import FLOAT, STATE, Memory, micro_batch, tally
from unmask.config.schema import TRAINED, Config
from unmask.stages.fingerprint import StageSpec
from unmask.stages.plan import stages_without_data
from unmask.stages.sizes import Seen, Size, batch_of, drawn, seen
from unmask.training.flops import Flops, count
from unmask.training.outline import computed_once, encoding, outline

PRICED = (*TRAINED, "knn", "robustness")
# what FLOPs depend on
SHAPES = (
    "model",
    "encoder",
    "decoder",
    "masking",
    "target",
    "tokenizer",
    "mask_ratio",
    "loss_on",
    "data",
)
# and of a stage's recipe
HEADS = ("pool", "blocks", "heads", "image_size", "augment", "ema", "optimizer")


@dataclass(frozen=True)
class StagePrice:
    """One stage: FLOPs of one image and of all of it; disk: bytes of the checkpoints that stay.

    per_image is None where a stage is not priced.
    """

    spec: StageSpec
    precision: Precision
    per_image: Flops | None
    seen: Seen
    flops: float
    disk: float

    def seconds(self, hardware: Hardware) -> float:
        """On all devices, evenly busy."""
        return self.flops / (hardware.devices * hardware.speed(self.precision))


@dataclass(frozen=True)
class Step:
    """A training step of one stage's model at the recipe's batch, shared by the devices."""

    kind: str
    model: str
    width: int  # the encoder's
    decoder: str | None
    per_image: Flops
    memory: Memory
    batch: int  # images a device
    precision: Precision

    def micro_batch(self, memory_gib: float) -> int:
        return micro_batch(self.memory, memory_gib * GIB, self.batch)


@dataclass
class Cell:
    """One run of a sweep. group: the experiment that it belongs to."""

    group: str
    config: Config
    size: Size
    prices: list[StagePrice] = field(default_factory=list)


class Estimator:
    """Counts each model once, however many cells have it."""

    def __init__(self) -> None:
        self._flops: dict[str, Flops] = {}
        self._memory: dict[str, Memory] = {}

    def price(self, cell: Cell, data: str) -> list[StagePrice]:
        """The stages of a run in order; features that two of them use are computed by the first."""
        extracted: set[tuple[Any, ...]] = set()
        specs = stages_without_data(cell.config, data)
        cell.prices = [
            self._stage(cell.config, spec, cell.size, extracted) for spec in specs
        ]
        return cell.prices

    def flops(self, config: Config, kind: str, start: str, classes: int) -> Flops:
        key = _key(config, kind, start, classes)
        if key not in self._flops:
            plain = kind == "knn"
            self._flops[key] = count(
                lambda: (
                    encoding(config, kind)
                    if plain
                    else outline(config, kind, start, classes)
                )
            )
        return self._flops[key]

    def step(self, config: Config, kind: str, size: Size, devices: int) -> Step:
        """Of the stage `kind` on the weights that it is for."""
        recipe, precision = getattr(config, kind), config.trainer.precision
        key = f"{_key(config, kind, 'pretrained', size.classes)} {precision}"
        if key not in self._memory:
            self._memory[key] = tally(
                lambda: outline(config, kind, "pretrained", size.classes),
                precision,
                recipe.optimizer,
                average=bool(getattr(recipe, "ema", None)),
            )
        batch = batch_of(config, kind, size.train)
        tokens = ", [M]" if config.encoder.mask_tokens else ""  # as Table 2 marks them
        decoder = (
            f"{config.decoder.depth} x {config.decoder.width}{tokens}"
            if kind == "pretrain"
            else None
        )
        return Step(
            kind,
            config.model.name,
            config.model.width,
            decoder,
            self.flops(config, kind, "pretrained", size.classes),
            self._memory[key],
            -(-batch // devices),
            precision,
        )

    def _stage(
        self,
        config: Config,
        spec: StageSpec,
        size: Size,
        extracted: set[tuple[Any, ...]],
    ) -> StagePrice:
        kind, precision = spec.kind, config.trainer.precision
        if kind not in PRICED:
            return StagePrice(spec, precision, None, Seen(0, 0), 0.0, 0.0)
        images = seen(config, kind, size)
        model = config.robustness.of if kind == "robustness" else kind
        per_image = self.flops(config, model, spec.start, size.classes)
        flops = (
            per_image.training * images.trained + per_image.forward * images.looked_at
        )
        once = kind == "knn" or computed_once(config, kind)
        if once:
            recipe = getattr(config, kind)
            wanted = (
                spec.start,
                recipe.pool,
                recipe.labels,
                config.stage_image_size(kind),
            )
            features = drawn(recipe, size.train) + size.val
            one_pass = (
                0.0
                if spec.start == "pixels"
                else self.flops(config, "knn", "", 0).forward
            )
            flops = (0.0 if kind == "knn" else flops) + (
                0.0 if wanted in extracted else one_pass * features
            )
            extracted.add(wanted)
        return StagePrice(
            spec,
            precision,
            per_image,
            images,
            flops,
            self._disk(config, kind, per_image),
        )

    @staticmethod
    def _disk(config: Config, kind: str, per_image: Flops) -> float:
        """Weights, the optimiser's state and the average, in float32, of the last checkpoint; and the best weights."""
        if kind not in TRAINED:
            return 0.0
        recipe = getattr(config, kind)
        copies = 2 if getattr(recipe, "ema", None) else 1
        weights = copies * FLOAT * per_image.parameters
        return (
            weights * (2 if config.checkpoint.best else 1)
            + STATE[recipe.optimizer] * per_image.trained
        )


def _key(config: Config, kind: str, start: str, classes: int) -> str:
    """The same for stages whose models and inputs are of one shape."""
    plain = config.plain()
    shapes = {key: plain.get(key) for key in SHAPES}
    if kind != "pretrain":  # no masks, no decoder
        shapes = {key: shapes[key] for key in ("model", "data")}
    recipe = {} if kind == "pretrain" else {key: plain[kind].get(key) for key in HEADS}
    given = start if start in ("pixels",) else ""
    return json.dumps(
        [kind if kind != "scratch" else "finetune", given, classes, shapes, recipe],
        sort_keys=True,
    )


def has_step(config: Config, spec: StageSpec) -> bool:
    """Whether it trains on images with an encoder: heads on features that are there take next to nothing."""
    return (
        spec.kind in TRAINED
        and spec.start != "pixels"
        and not computed_once(config, spec.kind)
    )


def unique(cells: Iterable[Cell]) -> list[StagePrice]:
    """Every stage once: what several cells need is made by the first of them and read by the others."""
    found: dict[str, StagePrice] = {}
    for cell in cells:
        for price in cell.prices:
            found.setdefault(price.spec.fingerprint, price)
    return list(found.values())


@dataclass(frozen=True)
class Total:
    """Of some stages, each counted once; seconds is None where the hardware could not be measured."""

    stages: int
    trained: int
    looked_at: int
    flops: float
    seconds: float | None
    disk: float


def total(prices: list[StagePrice], hardware: Hardware) -> Total:
    known = not hardware.measured
    return Total(
        len(prices),
        sum(p.seen.trained for p in prices),
        sum(p.seen.looked_at for p in prices),
        sum(p.flops for p in prices),
        sum(p.seconds(hardware) for p in prices) if known else None,
        sum(p.disk for p in prices),
    )
