"""The arguments of src/predict.py."""

from pathlib import Path
from typing import Literal

from unmask.config.checks import ConfigError
from unmask.config.section import Count, PathText, PositiveFraction, Section
from unmask.config.stage_paths import StagePath


class Predict(Section):
    checkpoint: StagePath
    images: PathText
    count: Count | None
    top: Count
    out: PathText | None
    classes: PathText | None
    eval_crop: PositiveFraction | None
    # neither heads nor grid can be read off the shapes of weights
    heads: Count | None
    grid: tuple[Count, Count] | None
    weights: str | None
    device: Literal["auto", "cpu", "cuda"]


def check_places(arguments: Predict) -> None:
    """Raise ConfigError for places that are not there.

    Checked first: otherwise it fails after all images are predicted.
    """
    if not Path(arguments.images).exists():
        raise ConfigError(f"images={arguments.images}: no such file or folder")
    if arguments.out and not Path(arguments.out).absolute().parent.is_dir():
        raise ConfigError(
            f"out={arguments.out}: its folder does not exist; make it, or give another"
            " place"
        )
