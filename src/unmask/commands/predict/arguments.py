"""The arguments of src/predict.py."""

from pathlib import Path
from typing import Literal

from unmask.commands.out_file import PARQUET_SUFFIX, check_out
from unmask.config.checks import ConfigError
from unmask.config.section import Count, PathText, PositiveFraction, Section
from unmask.config.stage_paths import StagePath

OUT_SUFFIXES = (".csv", PARQUET_SUFFIX)


class Predict(Section):
    checkpoint: StagePath
    images: PathText
    count: Count | None
    top: Count
    out: PathText | None
    batch_size: Count | None
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
    if arguments.classes and not Path(arguments.classes).is_file():
        raise ConfigError(
            f"classes={arguments.classes}: no such file; give one with a class name a"
            " line"
        )
    if arguments.out:
        out = Path(arguments.out)
        read = {"images": arguments.images, "classes": arguments.classes}
        check_out(out, OUT_SUFFIXES, read, [classes_file(out)])


def classes_file(out: Path) -> Path:
    """Return where the accuracy of each class is written, beside the predictions."""
    return out.with_name(f"{out.stem}.classes.csv")
