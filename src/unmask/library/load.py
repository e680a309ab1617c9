"""Load a model from wherever it lies: the ledger, a checkpoint, weights of others."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, cast

import torch
from torch import nn

from unmask.commands.device import choose_device
from unmask.commands.foreign_weights import check_foreign
from unmask.commands.reconstruct.autoencoder import (
    find_checkpoint,
    load_autoencoder,
)
from unmask.commands.reconstruct.foreign import Reading
from unmask.config.checks import ConfigError
from unmask.config.recipes import LABELLED_STAGES
from unmask.config.section import Count, PositiveFraction
from unmask.config.stage_paths import DEFAULT_LEDGER, resolve_stage
from unmask.data.loading.batch import ImageFormat
from unmask.exchange.files import intact_file
from unmask.exchange.geometry import Hints
from unmask.exchange.header import read_header
from unmask.heads import RawPixels
from unmask.library.arguments import as_path, checked
from unmask.library.errors import InputError, as_input_errors
from unmask.library.model import Model
from unmask.training.classifiers import (
    TrainedClassifier,
    load_trained_classifier,
)
from unmask.training.encoders import (
    TrainedEncoder,
    encoder_of_classifier,
    encoder_of_pretraining,
    load_trained_encoder,
)

NO_DECODER = "only pretraining has a decoder: load its stage, or weights with a decoder"
# what a checkpoint of this project says itself
OF_OTHERS = ("weights", "heads", "decoder_heads", "grid", "target")
OF_DECODERS = ("decoder_heads", "target")


class Options(TypedDict, total=False):
    """What a file may leave open; all but eval_crop and classes for weights of others.

    weights: which, where a file holds several (`ema`, or their key). heads,
    decoder_heads: of attention. grid: (rows, columns) of patches. target: what the
    decoder predicts. eval_crop: side of the centre crop as a share of the image's.
    classes: names of the head's classes, or a file with one a line.
    """

    weights: str
    heads: Count
    decoder_heads: Count
    grid: tuple[Count, Count]
    target: Literal["pixel", "pixel_norm"]
    eval_crop: PositiveFraction
    classes: Sequence[str] | Path


def load(
    place: str | os.PathLike[str],
    *,
    device: str | torch.device = "auto",
    runs_dir: str | os.PathLike[str] = DEFAULT_LEDGER,
    batch_size: int | None = None,
    **options: Unpack[Options],
) -> Model:
    """Load the model of a stage, or weights of others, in eval mode.

    place: a stage's folder or checkpoint, the first digits of a fingerprint in runs_dir
    (`a784`, `finetune/a784`), or a file or folder that src/convert.py reads. device:
    `auto` takes a GPU where there is one. batch_size: images that pass through the
    model at once; None: evaluation's. options: see Options. Raises InputError, in a
    sentence, where there is no model or an option is wrong.
    """
    with as_input_errors():
        options = _check_options(options)
        batch_size = checked("batch_size", batch_size, Count | None)
        target_device = choose_device(device)
        ledger = as_path("runs_dir", runs_dir)
        path = Path(resolve_stage(str(as_path("place", place)), ledger))
        hints = Hints(
            options.get("heads"), options.get("decoder_heads"), options.get("grid")
        )
        outline = check_foreign("checkpoint", path, hints, options.get("weights"))
        if outline is None:
            _refuse(options, OF_OTHERS, f"{path} says it itself")
            stage = read_header(intact_file(path)).record["stage"]
            is_classifier, has_decoder = stage in LABELLED_STAGES, stage == "pretrain"
        else:
            is_classifier = outline.pool is not None
            has_decoder = outline.geometry.decoder is not None
        if not is_classifier:
            _refuse(options, ("classes",), f"{path} has no classifier's head")
        if not has_decoder:
            _refuse(options, OF_DECODERS, f"{path} has no decoder")
        if is_classifier:
            notes = outline.notes if outline else ()
            model = _load_classifier(path, hints, options, notes)
        elif has_decoder:
            model = _load_autoencoder(path, hints, options)
        else:
            trained = load_trained_encoder(path, hints, None, options.get("weights"))
            model = _model(path, trained, f"{path} has no decoder; {NO_DECODER}")
        if eval_crop := options.get("eval_crop"):
            model = _with_crop(model, eval_crop)
        model = replace(
            model, device=target_device, batch_size=batch_size or model.batch_size
        )
        for part in (model.encoder, model.autoencoder, model.classifier):
            if isinstance(part, TrainedEncoder):
                cast(nn.Module, part.encoder).to(target_device)
            elif part is not None:
                part.model.to(target_device)
        return model


def _check_options(options: Options) -> Options:
    """Return the given options; InputError for unknown ones, and other types."""
    unknown = [key for key in options if key not in Options.__annotations__]
    if unknown:
        raise InputError(
            f"{unknown[0]}: there is no such option; give one of"
            f" {', '.join(Options.__annotations__)}"
        )
    kinds = Options.__annotations__ | {"classes": Any}
    return cast(
        Options,
        {
            key: checked(key, value, kinds[key])
            for key, value in options.items()
            if value is not None
        },
    )


def _refuse(options: Options, keys: Sequence[str], reason: str) -> None:
    """Raise InputError for options that this file has no use for."""
    given = [key for key in keys if options.get(key) is not None]
    if given:
        value = options.get(given[0])
        raise InputError(f"{given[0]}={value}: {reason}; leave it out")


def _model(
    path: Path, trained: TrainedEncoder, no_decoder: str, notes: Sequence[str] = ()
) -> Model:
    """Return a model of an encoder, still on the CPU."""
    return Model(
        path,
        "encoder",
        trained.image_format,
        torch.device("cpu"),
        trained.batch_size,
        trained,
        notes=(*trained.notes, *notes),
        no_decoder=no_decoder,
    )


def _load_classifier(
    path: Path, hints: Hints, options: Options, notes: Sequence[str]
) -> Model:
    classes: Any = options.get("classes")
    is_file = isinstance(classes, str | os.PathLike)
    class_file = as_path("classes", classes) if is_file else None
    if not (classes is None or is_file or isinstance(classes, Iterable)):
        raise InputError(
            f"classes={classes!r}: give the names, or a file with one a line"
        )
    classifier = load_trained_classifier(
        path, hints, None, class_file, options.get("weights")
    )
    if classes is not None and not is_file:
        classifier = _named(classifier, tuple(map(str, classes)))
    trained = None
    if not isinstance(classifier.model.features, RawPixels):
        trained = encoder_of_classifier(classifier, path)
    if classifier.is_foreign and "eval_crop" not in options:
        crop = classifier.image_format.eval_crop
        notes = (*notes, f"assumed of these weights: centre crop {crop:g} (eval_crop)")
    return Model(
        path,
        "classifier",
        classifier.image_format,
        torch.device("cpu"),
        classifier.batch_size,
        trained,
        classifier=classifier,
        notes=tuple(notes),
        no_decoder=f"{path} is a classifier; {NO_DECODER}",
    )


def _named(classifier: TrainedClassifier, names: tuple[str, ...]) -> TrainedClassifier:
    if len(names) != len(classifier.class_names):
        raise InputError(
            f"classes: {len(names)} names, and the head has"
            f" {len(classifier.class_names)} classes; give one name for each"
        )
    return replace(classifier, class_names=names)


def _load_autoencoder(path: Path, hints: Hints, options: Options) -> Model:
    """Load encoder and decoder; the encoder alone where nothing can be drawn."""
    reading = Reading(hints, options.get("weights"), options.get("target"))
    try:
        autoencoder = load_autoencoder(find_checkpoint(path), None, reading)
    # it predicts tokens, say; another version's config is refused here, too
    except ConfigError as error:
        trained = load_trained_encoder(path, hints, None, options.get("weights"))
        return _model(path, trained, str(error).removeprefix("checkpoint="))
    trained = encoder_of_pretraining(autoencoder.model.encoder, autoencoder.config)
    if autoencoder.notes is not None:
        # the precision of weights of others is not known
        trained = replace(trained, bfloat16=False)
    model = _model(path, trained, "", autoencoder.notes or ())
    autoencoder.model.requires_grad_(False)
    return replace(model, kind="autoencoder", autoencoder=autoencoder)


def _with_crop(model: Model, eval_crop: float) -> Model:
    """Return the model with another centre crop, in all of its parts."""

    def cropped(image_format: ImageFormat) -> ImageFormat:
        return replace(image_format, eval_crop=eval_crop)

    parts: dict[str, Any] = {
        name: replace(part, image_format=cropped(part.image_format))
        for name, part in (("encoder", model.encoder), ("classifier", model.classifier))
        if part is not None
    }
    return replace(model, image_format=cropped(model.image_format), **parts)
