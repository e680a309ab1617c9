"""The building blocks of the schema: sections, and the types of their values."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

# the interval that each type allows stands behind it
OpenFraction = Annotated[float, Field(gt=0, lt=1)]  # (0, 1)
FractionBelowOne = Annotated[float, Field(ge=0, lt=1)]  # [0, 1)
PositiveFraction = Annotated[float, Field(gt=0, le=1)]  # (0, 1]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
# NumPy and torch take seeds of 63 bits
Seed = Annotated[int, Field(ge=0, lt=2**63)]


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
