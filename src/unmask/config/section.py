"""The building blocks of the schema: sections, and the types of their values."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

# the interval that each type allows stands behind it
OpenFraction = Annotated[float, Field(gt=0, lt=1)]  # (0, 1)
FractionBelowOne = Annotated[float, Field(ge=0, lt=1)]  # [0, 1)
PositiveFraction = Annotated[float, Field(gt=0, le=1)]  # (0, 1]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
# NumPy and torch take seeds of 63 bits
Seed = Annotated[int, Field(ge=0, lt=2**63)]


def expand_home(value: str) -> str:
    """Return a path with ~ as the home folder; ValueError where there is no such user.

    Shells expand ~ at the beginning of a word only, not in key=~/images.
    """
    # others stay as they are: pathlib would shorten the // of addresses
    if not value.startswith("~"):
        return value
    try:
        return str(Path(value).expanduser())
    except RuntimeError:
        raise ValueError(
            f"{value}: there is no such user; write ./{value} for a file of that name"
        ) from None


IS_PATH = AfterValidator(expand_home)
# a file or a folder: all commands read one by the same rules, from here on
PathText = Annotated[str, IS_PATH]


# of a section in which names may be numbers, written without quotes
NUMBERS_AS_NAMES = ConfigDict(coerce_numbers_to_str=True)


class Section(BaseModel):
    """A section of the config; a key that it does not list is an error."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)


def height_and_width(value: Any) -> Any:
    """Turn one number, or a list of one, into (height, width).

    Anything else is left to pydantic.
    """
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    return (value, value) if isinstance(value, int) else value
