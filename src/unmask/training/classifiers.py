"""Trained classifiers from files: checkpoints, and fine-tuned weights of others."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from unmask.config.checks import ConfigError, check_checkpoint_config
from unmask.config.data import STANDARD_SIZE
from unmask.config.recipes import LABELLED_STAGES, MEASURING_STAGES
from unmask.config.schema import Config
from unmask.config.statistics import standard_statistics
from unmask.data.images.depth import Ranges
from unmask.data.loading.batch import ImageFormat
from unmask.data.loading.module import EVAL_BATCH
from unmask.encoder import AnyEncoder
from unmask.exchange.facts import Facts
from unmask.exchange.files import intact_file
from unmask.exchange.geometry import Hints
from unmask.exchange.header import read_header
from unmask.exchange.load_into_model import load_classifier, load_pretrained
from unmask.exchange.read_weights import read_weights
from unmask.exchange.weights import build_encoder
from unmask.heads import Classifier, Features, FineTuneFeatures
from unmask.stages.ledger import read_result
from unmask.storage import checkpoints
from unmask.storage.removed_weights import removed_weights
from unmask.training import build
from unmask.training.prepare import build_classifier, has_fixed_features

# 224 of 256 pixels: how fine-tuned ImageNet weights are evaluated
FOREIGN_EVAL_CROP = 0.875
# how names begin in a classifier's state
ENCODER_PREFIX = "features.encoder."
AVERAGE_PREFIX = "ema.module."
HEAD_WEIGHT = "head.weight"
State = dict[str, Tensor]


@dataclass(frozen=True)
class TrainedClassifier:
    """Hold a classifier in eval mode and how images are prepared for it.

    is_foreign: the weights are of another project, whose files do not say how images
    were prepared: image_format is an assumption then.
    """

    model: nn.Module
    image_format: ImageFormat
    channels: int
    class_names: tuple[str, ...]
    batch_size: int = EVAL_BATCH
    bfloat16: bool = False
    is_foreign: bool = False
    ranges: Ranges | None = None


def load_trained_classifier(
    path: Path,
    hints: Hints,
    eval_crop: float | None,
    class_file: Path | None,
    choice: str | None = None,
) -> TrainedClassifier:
    """Load a classifier from a checkpoint of this project or from foreign weights.

    hints: sizes that the file does not name. choice: of weights of others, as in
    `select_weights`. eval_crop and class_file, one class name a
    line, replace what the file says. Raises ConfigError where there is no file or no
    classifier in it, ValueError where it cannot be read.
    """
    if not path.exists():
        raise ConfigError(f"checkpoint={path}: no such file or folder")
    header = read_header(intact_file(path))
    if "config" in header.record:
        state = checkpoints.load(header.path)["state_dict"]
        classifier = classifier_from_checkpoint(header.path, header.record, state)
    else:
        classifier = _from_foreign_weights(path, hints, choice)
    if eval_crop:
        image_format = replace(classifier.image_format, eval_crop=eval_crop)
        classifier = replace(classifier, image_format=image_format)
    if class_file:
        names = _read_class_names(class_file, len(classifier.class_names))
        classifier = replace(classifier, class_names=names)
    return classifier


def classifier_from_checkpoint(
    path: Path, record: dict[str, Any], tensors: State
) -> TrainedClassifier:
    """Return the classifier in a checkpoint of this project.

    record, tensors: what its keys "unmask" and "state_dict" hold.
    """
    config = check_checkpoint_config(record["config"])
    kind = record["stage"]
    if kind not in LABELLED_STAGES:
        trained = [kind for kind in LABELLED_STAGES if kind not in MEASURING_STAGES]
        raise ConfigError(
            f"checkpoint={path} is of stage {kind}, which knows no classes; give"
            f" one of {', '.join(trained)}"
        )
    # averaged weights, where there are some: evaluation measured them
    has_average = any(name.startswith(AVERAGE_PREFIX) for name in tensors)
    prefix = AVERAGE_PREFIX if has_average else "model."
    state = checkpoints.strip_prefix(tensors, prefix)
    num_classes = len(state[HEAD_WEIGHT])
    model = _build_on_images(config, kind, state, path)
    # a head on stored features comes without the encoder, which is loaded already
    loaded = {
        name: value
        for name, value in model.state_dict().items()
        if name.startswith(ENCODER_PREFIX)
    }
    model.load_state_dict(loaded | state)
    arrays = config.data.arrays
    names = record.get("classes") or (
        arrays.classes if arrays else map(str, range(num_classes))
    )
    return TrainedClassifier(
        model.eval().requires_grad_(False),
        build.build_format(config, config.stage_image_size(kind)),
        config.data.channels,
        tuple(names),
        build.build_loading(config).eval_batch,
        bfloat16=config.precision == "bf16-mixed",
        ranges=config.data.ranges,
    )


def _build_on_images(config: Config, kind: str, state: State, path: Path) -> Classifier:
    """Return the classifier as its stage built it.

    Its weights are still to be loaded, but for the encoder under a head on stored
    features, whose checkpoint lacks it: the ledger around the checkpoint has it. Raises
    ConfigError where it has not.
    """
    num_classes = len(state[HEAD_WEIGHT])
    has_encoder = any(name.startswith(ENCODER_PREFIX) for name in state)
    is_stored = not has_encoder and has_fixed_features(config, kind)
    # of stages that see images, those on raw pixels alone have no encoder
    start = "pretrained" if has_encoder else "pixels"
    # runs/linear_probe/<fingerprint>/checkpoints/step=N.ckpt
    stage_folder = path.resolve().parent.parent
    result = (read_result(stage_folder) or {}) if is_stored else {}
    if is_stored:
        start = result.get("start", "pretrained")
    if start == "given" and is_stored:
        raise ConfigError(
            f"checkpoint={path} is a head on stored features of the weights that"
            " init_from named; train a probe that sees crops"
            " (linear_probe.augment.crop=random): its checkpoint keeps the encoder"
        )
    model = build_classifier(config, kind, start, num_classes, on_images=True)
    if is_stored and isinstance(model.features, Features) and start != "random":
        parent = f"{result.get('parent')}"
        folder = stage_folder.parent.parent / "pretrain" / parent / "checkpoints"
        _load_stored_encoder(model.features.encoder, config, folder, path)
    return model


def _load_stored_encoder(
    encoder: AnyEncoder, config: Config, folder: Path, path: Path
) -> None:
    checkpoint = checkpoints.newest(folder)
    if checkpoint is None and (removed := removed_weights(folder)):
        raise ConfigError(f"checkpoint={path} needs {folder.parent}: {removed}")
    if checkpoint is None:
        raise ConfigError(
            f"checkpoint={path} is a head on stored features: it holds no encoder,"
            " and the finished pretraining under it does not lie in the ledger"
            " around it; give it where it was made, or train a probe that sees"
            " crops (linear_probe.augment.crop=random), which keeps its encoder"
        )
    state = checkpoints.load(checkpoint)["state_dict"]
    load_pretrained(encoder, state, config.grid, config.positions)


def _from_foreign_weights(
    path: Path, hints: Hints, choice: str | None
) -> TrainedClassifier:
    """Load weights of another project, whose images are assumed to fill the grid."""
    weights, _ = read_weights(path, hints, choice=choice)
    head = weights.head
    geometry = weights.geometry
    facts = weights.facts
    if head is None or weights.pool is None:
        raise ConfigError(
            f"checkpoint={path} ({weights.layout}) has no classifier's head; give"
            " fine-tuned weights"
        )
    encoder = build_encoder(geometry)
    # the port's fine-tuned models normalise after pooling the mean
    features = FineTuneFeatures if "fc_norm.weight" in head else Features
    num_classes = len(head[HEAD_WEIGHT])
    model = Classifier(
        features(encoder, weights.pool),
        num_classes,
        "norm.running_mean" in head,
        seed=0,
    )
    load_classifier(model, weights)
    # numbers stand in for missing names
    names = facts.classes or ()
    if len(names) != num_classes:
        names = tuple(map(str, range(num_classes)))
    rows, columns = geometry.grid
    shape = (rows * geometry.patch_size, columns * geometry.patch_size)
    mean, std = image_statistics(facts, geometry.channels)
    usual_crop = FOREIGN_EVAL_CROP if max(shape) <= STANDARD_SIZE else 1.0
    image_format = ImageFormat(shape, mean, std, facts.eval_crop or usual_crop)
    return TrainedClassifier(
        model.eval().requires_grad_(False),
        image_format,
        geometry.channels,
        names,
        is_foreign=True,
    )


def image_statistics(
    facts: Facts, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std of the images, those of ImageNet by default.

    A Hugging Face folder has them beside the weights; they are often 0.5 and 0.5.
    """
    mean, std = facts.mean or (), facts.std or ()
    if len(mean) == len(std) == channels:
        return mean, std
    return standard_statistics(channels)


def _read_class_names(path: Path, count: int) -> tuple[str, ...]:
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
