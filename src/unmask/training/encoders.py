"""Trained encoders from files, of every stage that has one and of other projects."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from unmask.config.checks import ConfigError, check_checkpoint_config
from unmask.config.features import check_pool, refuse_stage, resolve_layer
from unmask.config.recipes import LABELLED_STAGES
from unmask.config.schema import Config
from unmask.data.images.decoding import DecodeMode
from unmask.data.images.depth import Ranges
from unmask.data.loading.batch import ImageFormat
from unmask.data.loading.module import EVAL_BATCH
from unmask.encoder import AnyEncoder
from unmask.exchange.files import intact_file
from unmask.exchange.geometry import Hints
from unmask.exchange.header import read_header
from unmask.exchange.load_into_model import load_encoder
from unmask.exchange.outline import read_outline
from unmask.exchange.read_weights import read_weights
from unmask.exchange.weights import build_encoder
from unmask.heads import (
    BlockFeatures,
    Features,
    FineTuneFeatures,
    FrozenPool,
    RawPixels,
)
from unmask.stages.fingerprint import resolve_decode
from unmask.storage import checkpoints
from unmask.training import build
from unmask.training.classifiers import (
    TrainedClassifier,
    image_statistics,
    load_trained_classifier,
)

ENCODER_PREFIX = "model.encoder."


@dataclass(frozen=True)
class TrainedEncoder:
    """Hold an encoder in eval mode and how images are prepared for it.

    pool: what evaluation pools. own_features: those of a classifier that normalises
    the mean by a norm of its own; the encoder's norm is not trained then. notes: what
    was assumed of weights of others, in sentences.
    """

    encoder: AnyEncoder
    image_format: ImageFormat
    pool: FrozenPool = "cls"
    own_features: FineTuneFeatures | None = None
    batch_size: int = EVAL_BATCH
    bfloat16: bool = False
    ranges: Ranges | None = None
    decode: DecodeMode = "fast"
    notes: tuple[str, ...] = ()


def load_trained_encoder(
    path: Path,
    hints: Hints,
    eval_crop: float | None = None,
    choice: str | None = None,
) -> TrainedEncoder:
    """Load the encoder of a checkpoint of this project, or of weights of others.

    hints, choice, eval_crop: as for `load_trained_classifier`. Raises ConfigError where
    there is no file or no encoder in it, ValueError where it cannot be read.
    """
    if not path.exists():
        raise ConfigError(f"checkpoint={path}: no such file or folder")
    header = read_header(intact_file(path))
    record = header.record
    if "config" not in record:
        trained = _from_weights_of_others(path, hints, choice)
    elif record["stage"] == "pretrain":
        trained = _from_pretraining(header.path, record)
    elif record["stage"] in LABELLED_STAGES:
        classifier = load_trained_classifier(path, hints, None, None, choice)
        trained = encoder_of_classifier(classifier, path)
    else:
        refuse_stage(path, record["stage"])
    if eval_crop:
        image_format = replace(trained.image_format, eval_crop=eval_crop)
        trained = replace(trained, image_format=image_format)
    return trained


def _from_pretraining(path: Path, record: dict[str, Any]) -> TrainedEncoder:
    config = check_checkpoint_config(record["config"])
    encoder = build.build_encoder(config)
    state = checkpoints.load(path)["state_dict"]
    module = cast(nn.Module, encoder)
    module.load_state_dict(checkpoints.strip_prefix(state, ENCODER_PREFIX))
    module.eval().requires_grad_(False)
    return encoder_of_pretraining(encoder, config)


def encoder_of_pretraining(encoder: AnyEncoder, config: Config) -> TrainedEncoder:
    """Return an encoder with the images that its pretraining's kNN sees."""
    return TrainedEncoder(
        encoder,
        build.build_format(config),
        config.knn.pool,
        batch_size=build.build_loading(config).eval_batch,
        bfloat16=config.precision == "bf16-mixed",
        ranges=config.data.ranges,
        decode=resolve_decode(config.data),
    )


def _from_weights_of_others(
    path: Path, hints: Hints, choice: str | None
) -> TrainedEncoder:
    """Load an encoder whose images are assumed to fill its grid."""
    outline = read_outline(path, hints, choice=choice)
    if outline.pool is not None:
        classifier = load_trained_classifier(path, hints, None, None, choice)
        trained = encoder_of_classifier(classifier, path)
        return replace(trained, notes=outline.notes)
    weights, report = read_weights(path, hints, choice=choice)
    geometry, facts = weights.geometry, weights.facts
    encoder = build_encoder(geometry)
    load_encoder(encoder, weights)
    rows, columns = geometry.grid
    shape = (rows * geometry.patch_size, columns * geometry.patch_size)
    mean, std = image_statistics(facts, geometry.channels)
    notes = report.notes
    if facts.mean is None:
        notes += ("the file does not say how images are normalised; ImageNet's way",)
    return TrainedEncoder(
        encoder.eval().requires_grad_(False),
        ImageFormat(shape, mean, std, facts.eval_crop or 1.0),
        notes=notes,
    )


def encoder_of_classifier(classifier: TrainedClassifier, path: Path) -> TrainedEncoder:
    """Return the encoder below a classifier's head.

    path: where it was read, for the error. Raises ConfigError where there is none.
    """
    features: Any = classifier.model.features
    if isinstance(features, RawPixels):
        raise ConfigError(
            f"checkpoint={path} classifies raw pixels: it has no encoder; give a stage"
            " that starts from a pretrained or a random one"
        )
    pools = isinstance(features, Features | FineTuneFeatures)
    has_own_norm = isinstance(features, FineTuneFeatures) and features.pool == "mean"
    return TrainedEncoder(
        features.encoder,
        classifier.image_format,
        features.pool if pools else "cls",
        features if has_own_norm else None,
        classifier.batch_size,
        classifier.bfloat16,
        classifier.ranges,
    )


def build_block_features(
    trained: TrainedEncoder, layer: int | None, pool: str | None
) -> nn.Module:
    """Return a module that takes features from normalised images.

    layer: the number of blocks, 0 for the embedded patches; negative: from the last,
    -1; None: all, and the norm after them. pool: one of FeaturePool; None: evaluation's
    own. Raises ConfigError where the encoder has no such block or features.
    """
    depth = len(trained.encoder.blocks)
    try:
        depth_taken = resolve_layer(layer, depth)
        chosen = check_pool(trained.pool if pool is None else pool)
    except ValueError as error:
        raise ConfigError(f"{error}") from None
    if layer is None and trained.own_features is not None:
        if chosen == "mean":
            return trained.own_features
        raise ConfigError(
            f"pool={chosen}: this classifier normalises the mean of the patches alone;"
            f" give pool=mean, or layer={depth} for tokens without a norm"
        )
    return BlockFeatures(trained.encoder, depth_taken, chosen)
