"""The estimator: FLOPs counted on the modules, images as the loaders draw them."""

import json
from collections.abc import Iterable
from typing import Any

from unmask.commands.plan.memory import (
    FLOAT_BYTES,
    OPTIMIZER_STATE_BYTES,
    Memory,
    count_memory,
)
from unmask.commands.plan.price_types import Cell, StagePrice, TrainingStep
from unmask.config.architecture import Decoder
from unmask.config.datasets import DatasetSize
from unmask.config.recipes import PRICED_STAGES, STAGES, TRAINED_STAGES
from unmask.config.schema import Config
from unmask.stages.evaluation_sets import stage_config
from unmask.stages.fingerprint import StageSpec
from unmask.stages.sizes import (
    ImageCounts,
    count_images,
    num_used_images,
    stage_batch_size,
)
from unmask.training.flops import Flops, count_flops
from unmask.training.outline import build_outline, features_outline
from unmask.training.prepare import has_fixed_features

# the keys of a config that FLOPs and memory depend on
SHAPE_KEYS = (
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
# and those of a measuring stage's recipe
RECIPE_KEYS = ("pool", "blocks", "heads", "image_size", "augment", "ema", "optimizer")


class Estimator:
    """Price runs; each model is counted once, however many cells have it."""

    def __init__(self) -> None:
        self._flops: dict[str, Flops] = {}
        self._memory: dict[str, Memory] = {}

    def price_cell(self, cell: Cell, stages: Iterable[StageSpec]) -> list[StagePrice]:
        """Price these stages of a run, in order, and store the prices in the cell.

        Features that two stages share are computed by the first.
        """
        extracted: set[tuple[Any, ...]] = set()
        cell.prices = [
            self._price_stage(cell.config, spec, cell.size, extracted)
            for spec in stages
        ]
        return cell.prices

    def image_flops(self, config: Config, kind: str, start: str, classes: int) -> Flops:
        """Return the FLOPs of one image in a stage."""
        key = _model_key(config, kind, start, classes)
        if key not in self._flops:
            self._flops[key] = count_flops(
                lambda: (
                    # measured on its features, and nothing is trained
                    features_outline(config, kind)
                    if kind not in TRAINED_STAGES
                    else build_outline(config, kind, start, classes)
                )
            )
        return self._flops[key]

    def training_step(
        self, config: Config, kind: str, size: DatasetSize, devices: int
    ) -> TrainingStep:
        """Return what a step of the stage takes, starting from pretrained weights."""
        recipe = getattr(config, kind)
        precision = config.precision
        key = f"{_model_key(config, kind, 'pretrained', size.classes)} {precision}"
        if key not in self._memory:
            self._memory[key] = count_memory(
                lambda: build_outline(config, kind, "pretrained", size.classes),
                precision,
                recipe.optimizer,
                average=bool(getattr(recipe, "ema", None)),
            )
        decoder = None
        if kind == "pretrain":
            decoder = _describe_decoder(config)
        batch_size = stage_batch_size(config, kind, size.train)
        return TrainingStep(
            kind,
            config.model.name,
            config.model.width,
            decoder,
            self.image_flops(config, kind, "pretrained", size.classes),
            self._memory[key],
            batch_size,
            -(-batch_size // devices),
            precision,
        )

    def _price_stage(
        self,
        config: Config,
        spec: StageSpec,
        size: DatasetSize,
        extracted: set[tuple[Any, ...]],
    ) -> StagePrice:
        """Price one stage. extracted: features that earlier stages have computed."""
        kind = spec.kind
        # of several test sets the one that this stage measures
        config = stage_config(config, spec)
        precision = config.precision
        if kind not in PRICED_STAGES:
            return StagePrice(spec, precision, None, ImageCounts(0, 0), 0.0, 0.0)
        images = count_images(config, kind, size)
        # robustness evaluates the classifier of another stage
        of_classifier = STAGES[kind].parent == "classifier"
        model_kind = getattr(config, kind).of if of_classifier else kind
        per_image = self.image_flops(config, model_kind, spec.start, size.classes)
        flops = (
            per_image.training * images.trained + per_image.forward * images.evaluated
        )
        if model_kind not in TRAINED_STAGES:
            flops = self._feature_flops(config, spec, size, extracted)
        elif has_fixed_features(config, kind):
            # here per_image is that of the head only
            flops += self._feature_flops(config, spec, size, extracted)
        disk_bytes = _checkpoint_bytes(config, kind, per_image)
        batch = 0
        if has_training_step(config, spec):
            batch = stage_batch_size(config, kind, size.train)
        return StagePrice(spec, precision, per_image, images, flops, disk_bytes, batch)

    def _feature_flops(
        self,
        config: Config,
        spec: StageSpec,
        size: DatasetSize,
        extracted: set[tuple[Any, ...]],
    ) -> float:
        """Return the FLOPs of one pass of the encoder over all images.

        0 where an earlier stage has computed these features, and for raw pixels.
        """
        recipe = getattr(config, spec.kind)
        features = (
            spec.start,
            recipe.pool,
            recipe.labels,
            config.stage_image_size(spec.kind),
        )
        if features in extracted or spec.start == "pixels":
            return 0.0
        extracted.add(features)
        num_images = num_used_images(recipe, size.train) + size.val
        return self.image_flops(config, "knn", "", 0).forward * num_images


def _checkpoint_bytes(config: Config, kind: str, per_image: Flops) -> float:
    """Return the size of the checkpoints that a finished stage leaves.

    They are the last one (float32 weights, their average, the optimizer's state) and
    the best weights.
    """
    if kind not in TRAINED_STAGES:
        return 0.0
    recipe = getattr(config, kind)
    copies = 2 if getattr(recipe, "ema", None) else 1
    weights = copies * FLOAT_BYTES * per_image.parameters
    files = 2 if config.checkpoint.best else 1
    optimizer_state = OPTIMIZER_STATE_BYTES[recipe.optimizer] * per_image.trained
    return files * weights + optimizer_state


def _describe_decoder(config: Config) -> str:
    """Return depth and width, and what is not the paper's default."""
    decoder = config.decoder
    # [M] marks mask tokens in the encoder, as in Table 2 of the paper
    mark = ", [M]" if config.encoder.mask_tokens else ""
    if not isinstance(decoder, Decoder):
        mark += f", {decoder.target_.rpartition('.')[2]}"
    return f"{decoder.depth} x {decoder.width}{mark}"


def _model_key(config: Config, kind: str, start: str, classes: int) -> str:
    """Return a key that is equal for stages whose models and inputs have one shape."""
    values = config.to_dict()
    shape_keys: tuple[str, ...] = SHAPE_KEYS
    recipe = {}
    if kind != "pretrain":
        # measuring stages have no masks and no decoder
        shape_keys = ("model", "data")
        recipe = {key: values[kind].get(key) for key in RECIPE_KEYS}
    shapes = {key: values.get(key) for key in shape_keys}
    # what the weights start from matters only where there is no encoder
    start = start if start == "pixels" else ""
    model_kind = "finetune" if kind == "scratch" else kind
    return json.dumps([model_kind, start, classes, shapes, recipe], sort_keys=True)


def has_training_step(config: Config, spec: StageSpec) -> bool:
    """Tell whether a stage trains on images with an encoder.

    Heads on stored features take next to nothing.
    """
    return (
        spec.kind in TRAINED_STAGES
        and spec.start != "pixels"
        and not has_fixed_features(config, spec.kind)
    )
