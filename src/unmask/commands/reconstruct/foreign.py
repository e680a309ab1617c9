"""The autoencoder in a file of weights that is no checkpoint of this project."""

from pathlib import Path
from typing import Literal, NamedTuple

from unmask.commands.composition import Composer
from unmask.commands.foreign_weights import refuse_encoder_alone
from unmask.config.checks import check
from unmask.config.schema import Config
from unmask.exchange.facts import Facts
from unmask.exchange.fit import overrides_for
from unmask.exchange.geometry import Hints
from unmask.exchange.load_into_model import load_mae
from unmask.exchange.outline import NO_HINTS
from unmask.exchange.read_weights import read_weights
from unmask.exchange.sizes import Geometry
from unmask.mae import MAE
from unmask.training import build
from unmask.training.classifiers import image_statistics

# the paper's, where no file says another
MASK_RATIO = 0.75


class Reading(NamedTuple):
    """What a file of others may leave open: sizes, which weights, and their target."""

    hints: Hints = NO_HINTS
    weights: str | None = None
    target: Literal["pixel", "pixel_norm"] | None = None


NO_READING = Reading()


class ForeignAutoencoder(NamedTuple):
    """A model, the config of a run that would have trained it, and what was assumed."""

    model: MAE
    config: Config
    notes: tuple[str, ...]


def load_foreign_autoencoder(
    path: Path, mask_ratio: float | None, reading: Reading = NO_READING
) -> ForeignAutoencoder:
    """Load encoder and decoder of an official file, of Hugging Face, or of an export.

    Raises ConfigError where there is no decoder, ValueError where the file cannot be
    read.
    """
    weights, report = read_weights(path, reading.hints, choice=reading.weights)
    if weights.decoder is None:
        refuse_encoder_alone(path, weights.layout)
    facts = weights.facts
    notes = list(report.notes)
    target = reading.target or facts.target
    if target is None:
        target = "pixel"
        notes.append(
            "the file does not say what its decoder predicts; assumed: pixels"
            " (another: target=pixel_norm)"
        )
    if facts.mean is None:
        notes.append("the file does not say how images are normalised; ImageNet's way")
    ratio = mask_ratio or facts.mask_ratio or MASK_RATIO
    config = _config_for(weights.geometry, facts, target, ratio)
    model = build.build_mae(config).eval()
    load_mae(model, weights)
    return ForeignAutoencoder(model, config, tuple(notes))


def _config_for(
    geometry: Geometry, facts: Facts, target: str, mask_ratio: float
) -> Config:
    """Return the config of a run whose model has these sizes."""
    rows, columns = geometry.grid
    patch = geometry.patch_size
    mean, std = image_statistics(facts, geometry.channels)
    overrides = [
        *overrides_for(geometry).split(),
        "data=image_folder",
        "data.root=/not/here",
        f"data.image_size=[{rows * patch},{columns * patch}]",
        f"data.mean={list(mean)}",
        f"data.std={list(std)}",
        f"data.eval_crop={facts.eval_crop or 1.0}",
        f"target={target}",
        f"mask_ratio={mask_ratio}",
        "stages=[pretrain]",
    ]
    return check(Composer()(overrides))
