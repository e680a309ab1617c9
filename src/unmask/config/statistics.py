"""Mean and std of a data set's pixels: given, kept in a file by src/measure.py, or ImageNet's. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

Value = Annotated[float, Field(ge=0, le=1)]


def standard_statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std per channel where nobody gives them: ImageNet's for three channels, else 0.5 and 0.25."""
    if channels == 3:
        return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return (0.5,) * channels, (0.25,) * channels


class Statistics(BaseModel):
    """Per channel, over all pixels of the training images, in [0, 1]; identity: of the data set."""

    model_config = ConfigDict(extra="ignore")  # the file says more, for people

    identity: str
    channels: int
    mean: list[Value]
    std: list[Annotated[float, Field(gt=0, le=1)]]


def read_statistics(file: str) -> Statistics:
    """Raises ValueError where the file is none of src/measure.py's."""
    try:
        content: Any = yaml.safe_load(Path(file).expanduser().read_text())
        found = Statistics.model_validate(content)
    except (OSError, UnicodeError, yaml.YAMLError, ValidationError) as error:
        reason = (
            error.strerror
            if isinstance(error, OSError)
            else " ".join(str(error).split())[:120]
        )
        raise ValueError(
            f"data.statistics={file} cannot be read ({reason}); python src/measure.py"
            " <your data> writes such a file"
        ) from None
    if {len(found.mean), len(found.std)} != {found.channels}:
        raise ValueError(
            f"data.statistics={file} has {len(found.mean)} means for {found.channels}"
            " channels; measure anew"
        )
    return found


class Taken(NamedTuple):
    """identity: of the images that they were measured on, where that is known."""

    mean: Sequence[float]
    std: Sequence[float]
    identity: str | None = None


def taken_statistics(
    file: str | None, mean: list[float] | None, std: list[float] | None, channels: int
) -> Taken:
    """The file's, the given ones, or the usual ones. Raises ValueError where a file and values are given."""
    if file is None:
        usual = standard_statistics(channels)
        return Taken(mean or usual[0], std or usual[1])
    if mean or std:
        raise ValueError(
            "data.statistics is given and so are data.mean or data.std; set these two"
            " to null"
        )
    found = read_statistics(file)
    if found.channels != channels:
        raise ValueError(
            f"data.statistics={file} is of images of {found.channels} channels, not of"
            f" {channels}"
        )
    return Taken(found.mean, found.std, found.identity)
