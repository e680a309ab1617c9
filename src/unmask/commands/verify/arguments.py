"""The arguments of src/verify.py, beside the run's own config."""

from typing import Annotated

from pydantic import Field

from unmask.config.section import Count, PathText, Positive, Section


class Settings(Section):
    # an interruption needs a step before it and one after it
    steps: Annotated[int, Field(ge=2)]
    kills: Count
    processes: list[Count]
    minutes: Positive
    folder: PathText | None
    loss_bound: Positive
    # |a - b| / |b| over all weights
    weights_bound: Positive


class Verify(Section):
    verify: Settings
