"""Mean and std of a data set's pixels.

They stand in the config, in a file of src/measure.py, or are ImageNet's.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

UnitInterval = Annotated[float, Field(ge=0, le=1)]
MAX_REASON_LENGTH = 120  # characters of an error that a message repeats


def standard_statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the default mean and std of each channel.

    Three channels have ImageNet's; any other number has 0.5 and 0.25.
    """
    if channels == 3:
        return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return (0.5,) * channels, (0.25,) * channels


class MeasuredStatistics(BaseModel):
    """What a file of src/measure.py says of the training images' pixels, in [0, 1]."""

    # the file holds more, for people to read
    model_config = ConfigDict(extra="ignore")

    # of the data set that was measured
    identity: str
    channels: int
    mean: list[UnitInterval]
    std: list[Annotated[float, Field(gt=0, le=1)]]


def read_statistics(file: str) -> MeasuredStatistics:
    """Read a file of src/measure.py; ValueError where it is not one."""
    try:
        content: Any = yaml.safe_load(Path(file).expanduser().read_text())
        statistics = MeasuredStatistics.model_validate(content)
    except (OSError, UnicodeError, yaml.YAMLError, ValidationError) as error:
        reason = " ".join(str(error).split())[:MAX_REASON_LENGTH]
        if isinstance(error, OSError):
            reason = error.strerror or reason
        raise ValueError(
            f"data.statistics={file} cannot be read ({reason}); python src/measure.py"
            " <your data> writes such a file"
        ) from None
    lengths = {len(statistics.mean), len(statistics.std)}
    if lengths != {statistics.channels}:
        raise ValueError(
            f"data.statistics={file} has {len(statistics.mean)} means and"
            f" {len(statistics.std)} stds for {statistics.channels} channels; write it"
            " again: python src/measure.py <your data>"
        )
    return statistics


class ResolvedStatistics(NamedTuple):
    """Mean and std of each channel, and the images they were measured on."""

    mean: Sequence[float]
    std: Sequence[float]
    # of the measured data set; None where nobody knows
    identity: str | None = None


def resolve_statistics(
    file: str | None, mean: list[float] | None, std: list[float] | None, channels: int
) -> ResolvedStatistics:
    """Take mean and std from the file, from the config, or the defaults.

    Raises ValueError where both a file and values are set, or the file does not fit.
    """
    if file is None:
        default_mean, default_std = standard_statistics(channels)
        return ResolvedStatistics(mean or default_mean, std or default_std)
    if mean or std:
        raise ValueError(
            f"data.statistics={file} is set, and so are data.mean={mean} and"
            f" data.std={std}; set both of these to null, or data.statistics=null"
        )
    measured = read_statistics(file)
    if measured.channels != channels:
        raise ValueError(
            f"data.statistics={file} is of images of {measured.channels} channels, not"
            f" of {channels}; measure these images with src/measure.py, or set"
            f" data.channels={measured.channels}"
        )
    return ResolvedStatistics(measured.mean, measured.std, measured.identity)
