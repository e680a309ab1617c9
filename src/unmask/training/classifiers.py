"""Classifiers from files: of this project's measuring stages, and of others' fine-tuned weights."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from unmask.config.checks import ConfigError, check_stored
from unmask.config.schema import LABELLED, Config
from unmask.config.statistics import standard_statistics
from unmask.data.loading.batch import Format
from unmask.data.loading.module import EVAL_BATCH
from unmask.data.sources import CLASSES
from unmask.encoder import Encoder
from unmask.exchange.files import Opened, open_weights
from unmask.exchange.geometry import Hints
from unmask.exchange.load import load_classifier, load_pretrained
from unmask.exchange.read import read
from unmask.heads import (
    AnyFeatures,
    AttentiveFeatures,
    Classifier,
    Features,
    FineTuneFeatures,
    RawPixels,
)
from unmask.stages.ledger import read_result
from unmask.storage import checkpoints
from unmask.training import build

CROP_OF_OTHERS = 0.875  # 224 of 256: how ImageNet's fine-tuned weights are measured
ENCODER, HEAD = "features.encoder.", "head.weight"
State = dict[str, Tensor]


@dataclass(frozen=True)
class Ready:
    """A classifier in eval mode, with the images that it was measured on: their format, channels and batches."""

    model: nn.Module
    form: Format
    channels: int
    classes: tuple[str, ...]
    at_once: int = EVAL_BATCH
    bfloat16: bool = False
    of_others: bool = False  # then the format is assumed: the file does not tell it


def load_ready(
    place: Path, hints: Hints, eval_crop: float | None, class_file: Path | None
) -> Ready:
    """Raises ConfigError for what is not there or no classifier, ValueError for unusable files."""
    if not place.exists():
        raise ConfigError(f"checkpoint={place}: no such file or folder")
    opened = open_weights(place)
    ready = (
        _ours(opened) if "config" in opened.record else _theirs(opened, place, hints)
    )
    if eval_crop:
        ready = replace(ready, form=replace(ready.form, eval_crop=eval_crop))
    if class_file:
        ready = replace(ready, classes=_names(class_file, len(ready.classes)))
    ready.model.eval().requires_grad_(False)
    return ready


def of_stage(path: Path, content: dict[str, Any]) -> Ready:
    """The classifier in a checkpoint of this project that is already read, ready to be asked."""
    ready = _ours(Opened(path, content["state_dict"], {}, content["unmask"], None))
    ready.model.eval().requires_grad_(False)
    return ready


def _ours(opened: Opened) -> Ready:
    """The averaged weights where there are some: they are what evaluation measured."""
    about = opened.record
    config, kind = check_stored(about["config"]), about["stage"]
    if kind not in LABELLED:
        # which train nothing
        others = ", ".join(
            stage for stage in LABELLED if stage not in ("knn", "robustness")
        )
        raise ConfigError(
            f"checkpoint={opened.path} is of stage {kind}, which knows no classes; give"
            f" one of {others}"
        )
    prefix = (
        "ema.module."
        if any(name.startswith("ema.module.") for name in opened.tensors)
        else "model."
    )
    state = checkpoints.below(opened.tensors, prefix)
    shape = config.stage_image_size(kind)
    features = _features(config, kind, state, opened.path)
    count = len(state[HEAD])
    model = Classifier(features, count, "norm.running_mean" in state, config.seed)
    # a head on stored features comes without the encoder, which _features has filled in
    own = {
        name: v for name, v in model.state_dict().items() if name.startswith(ENCODER)
    }
    model.load_state_dict(own | state)
    form, loading = build.build_format(config, shape), build.build_loading(config)
    names = tuple(
        about.get("classes")
        or CLASSES.get(config.data.source)
        or map(str, range(count))
    )
    bfloat16 = config.trainer.precision == "bf16-mixed"
    return Ready(model, form, config.data.channels, names, loading.eval_batch, bfloat16)


def _features(config: Config, kind: str, state: State, path: Path) -> AnyFeatures:
    """What the head classifies, as the stage made it; its weights come later, but for a head on stored features."""
    recipe, grid = getattr(config, kind), config.grid_of(config.stage_image_size(kind))
    if not any(name.startswith(ENCODER) for name in state):
        return (
            _pixels(config, kind)
            if kind != "linear_probe"
            else _stored_features(config, path)
        )
    encoder = build.build_encoder(config, grid)
    if kind == "attentive_probe":
        return AttentiveFeatures(encoder, recipe.heads, config.seed)
    return (
        Features(encoder, recipe.pool)
        if kind == "linear_probe"
        else FineTuneFeatures(encoder, recipe.pool)
    )


def _pixels(config: Config, kind: str) -> RawPixels:
    height, width = config.stage_image_size(kind)
    return RawPixels(config.data.channels * height * width)


def _stored_features(config: Config, path: Path) -> AnyFeatures:
    """Of a probe on stored features, whose checkpoint is the head alone: the ledger around it has the rest."""
    stage = path.resolve().parent.parent
    result = read_result(stage) or {}
    if result.get("start") == "pixels":
        return _pixels(config, "linear_probe")
    if result.get("start") == "given":
        raise ConfigError(
            f"checkpoint={path} is a head on stored features of the weights that"
            " init_from named; train a probe that sees crops"
            " (linear_probe.augment.crop=random): its checkpoint keeps the encoder"
        )
    grid, random = (
        config.grid_of(config.stage_image_size("linear_probe")),
        result.get("start") == "random",
    )
    encoder = build.build_encoder(config, grid, config.seed if random else None)
    if not random:
        parent = checkpoints.newest(
            stage.parent.parent / "pretrain" / str(result.get("parent")) / "checkpoints"
        )
        if parent is None:
            raise ConfigError(
                f"checkpoint={path} is a head on stored features: it holds no encoder,"
                " and the finished pretraining under it does not lie in the ledger"
                " around it; give it where it was made, or train a probe that sees"
                " crops (linear_probe.augment.crop=random), which keeps its encoder"
            )
        load_pretrained(encoder, checkpoints.load(parent)["state_dict"], config.grid)
    return Features(encoder, config.linear_probe.pool)


def _theirs(opened: Opened, place: Path, hints: Hints) -> Ready:
    """Weights of others say nothing of their images: square ones of the grid's size, ImageNet's statistics."""
    weights, _ = read(place, hints)
    head, size = weights.head, weights.geometry
    if head is None or weights.pool is None:
        raise ConfigError(
            f"checkpoint={opened.path} ({weights.layout}) has no classifier's head;"
            " give fine-tuned weights"
        )
    stack = size.encoder
    encoder = Encoder(
        size.grid,
        size.patch_size,
        size.channels,
        stack.width,
        stack.depth,
        stack.heads,
        stack.mlp_ratio,
    )
    kind = FineTuneFeatures if "fc_norm.weight" in head else Features
    model = Classifier(
        kind(encoder, weights.pool),
        len(head[HEAD]),
        "norm.running_mean" in head,
        seed=0,
    )
    load_classifier(model, weights)
    rows, columns = size.grid
    mean, std = _statistics(opened, size.channels)
    shape = (rows * size.patch_size, columns * size.patch_size)
    form = Format(
        shape, mean, std, CROP_OF_OTHERS if max(shape) <= build.STANDARD else 1.0
    )
    labels = opened.config.get("id2label", {})
    names = tuple(str(labels.get(str(i), i)) for i in range(len(head[HEAD])))
    return Ready(model, form, size.channels, names, of_others=True)


def _statistics(
    opened: Opened, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of Hugging Face folders what stands beside the weights (often 0.5 and 0.5), else ImageNet's."""
    beside = opened.path.parent / "preprocessor_config.json"
    told = json.loads(beside.read_text()) if opened.config and beside.is_file() else {}
    if len(told.get("image_mean", ())) == len(told.get("image_std", ())) == channels:
        return tuple(told["image_mean"]), tuple(told["image_std"])
    return standard_statistics(channels)


def _names(path: Path, count: int) -> tuple[str, ...]:
    if not path.is_file():
        raise ConfigError(
            f"classes={path}: no such file; give one with a class name a line"
        )
    names = tuple(path.read_text().splitlines())
    if len(names) != count:
        raise ConfigError(
            f"classes={path} has {len(names)} lines, the checkpoint {count} classes;"
            " give one name a line"
        )
    return names
