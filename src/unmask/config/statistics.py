"""Range, mean and std of a data set's pixels.

They stand in the config, in a file of src/measure.py, or are the type's and ImageNet's.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

UnitInterval = Annotated[float, Field(ge=0, le=1)]
UnitStd = Annotated[float, Field(gt=0, le=1)]
Ranges = list[tuple[float, float]]
MAX_REASON_LENGTH = 120  # characters of an error that a message repeats
MEASURED = "measured"


def standard_statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the default mean and std of each channel.

    Three channels have ImageNet's; any other number has 0.5 and 0.25.
    """
    if channels == 3:
        return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return (0.5,) * channels, (0.25,) * channels


def parse_range(value: Any) -> Any:
    """Return a list of (low, high), of which one is enough where all are equal.

    Raises ValueError for what is neither.
    """
    if value in (None, MEASURED):
        return value
    is_pair = isinstance(value, list | tuple) and len(value) == 2
    pairs = [value] if is_pair and not isinstance(value[0], list | tuple) else value
    try:
        ranges = [(float(low), float(high)) for low, high in pairs]
    except (TypeError, ValueError):
        ranges = []
    if not ranges or not all(
        low < high and math.isfinite(high - low) for low, high in ranges
    ):
        raise ValueError(
            f"data.range = {value}: give [low,high] with low < high, one such pair for"
            " each channel, measured or null"
        )
    return ranges[:1] if len(set(ranges)) == 1 else ranges


def parse_per_channel(key: str, value: Any) -> Any:
    """Return a list of numbers of one for each channel, nested as arrays are.

    NumPy's (1, 1, C) and (C, 1, 1) mean the same as (C,). Raises ValueError for values
    in the units of the pixels.
    """
    if not isinstance(value, list | tuple):
        return value
    values = list(_flatten(value))
    numbers = [each for each in values if isinstance(each, int | float)]
    if len(numbers) == len(values) and any(each > 1 for each in numbers):
        scaled = [round(each / 255, 6) for each in numbers]
        of_bytes = f"; of 255 they are {key}={scaled}" if max(numbers) <= 255 else ""
        raise ValueError(
            f"{key} = {numbers}: pixels are shares of their range, in [0, 1]{of_bytes};"
            " src/measure.py finds them"
        )
    return values


def _flatten(value: Any) -> Iterator[Any]:
    for each in value:
        if isinstance(each, list | tuple):
            yield from _flatten(each)
        else:
            yield each


class MeasuredStatistics(BaseModel):
    """What a file of src/measure.py says of the training images' pixels.

    mean, std: of the shares of the range. range: None for images of 8 bits.
    """

    # the file holds more, for people to read
    model_config = ConfigDict(extra="ignore")

    # of the data set that was measured
    identity: str
    channels: int
    range: Ranges | None = None
    mean: list[UnitInterval]
    std: list[UnitStd]


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
    """Range, mean and std of each channel, and the images they were measured on."""

    range: Ranges | None
    mean: Sequence[float]
    std: Sequence[float]
    # of the measured data set; None where nobody knows
    identity: str | None = None


def resolve_statistics(
    file: str | None,
    mean: list[float] | None,
    std: list[float] | None,
    ranges: Ranges | str | None,
    channels: int,
) -> ResolvedStatistics:
    """Take range, mean and std from the file, from the config, or the defaults.

    Raises ValueError where both a file and values are set, or the file does not fit.
    """
    if file is None:
        if isinstance(ranges, str):
            raise ValueError(
                f"data.range={ranges}: needs the file that holds it; add"
                " data.statistics=FILE of python src/measure.py <your data>"
            )
        default_mean, default_std = standard_statistics(channels)
        _check_count(ranges, channels)
        return ResolvedStatistics(ranges, mean or default_mean, std or default_std)
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
    found = parse_range(measured.range)
    # mean and std mean something together with their range alone
    if ranges not in (None, MEASURED, found):
        raise ValueError(
            f"data.range={ranges}: data.statistics={file} was measured with"
            f" {found or 'the range of 8 bits'}; set data.range=measured, or measure"
            " again with this range"
        )
    _check_count(found, channels)
    return ResolvedStatistics(found, measured.mean, measured.std, measured.identity)


def _check_count(ranges: Ranges | None, channels: int) -> None:
    """Raise ValueError unless there is one pair, or one for each channel."""
    if ranges and len(ranges) not in (1, channels):
        raise ValueError(
            f"data.range has {len(ranges)} pairs for data.channels={channels}; give"
            " one pair, or one for each channel"
        )
