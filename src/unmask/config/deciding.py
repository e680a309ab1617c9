"""What `-m decide=true` takes: how much may be spent on the claims of a table."""

from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from unmask.config.checks import ConfigError, describe_errors
from unmask.config.section import Count, Positive, Section

KEYS = ("decide", "seeds_max", "hours")


class Decide(Section):
    """Say what was typed.

    seeds_max: seeds of a row; None: the scale's last look. hours: of computing that all
    cells together may have taken; None: any number.
    """

    decide: bool = False
    seeds_max: Count | None = None
    hours: Positive | None = None


def sweeper_options(typed: Sequence[str], is_multirun: bool) -> list[str]:
    """Return arguments of `Decide` as options of the sweeper.

    Raises ConfigError for values that cannot be, and where no sweep was asked for.
    """
    pairs = [each.partition("=") for each in typed]
    values = {key: value for key, _, value in pairs}
    wanted = parse_decide(values)
    if not wanted.decide:
        raise ConfigError(
            f"{typed[0]}: seeds are chosen with decide=true alone; add it, or leave"
            " this out"
        )
    if not is_multirun:
        raise ConfigError(
            f"{typed[0]}: claims are decided by a sweep over a table of the paper; type"
            " python src/train.py -m experiment=mask_ratio decide=true"
        )
    options = wanted.model_dump(exclude_none=True).items()
    return [f"hydra.sweeper.{key}={value}" for key, value in options]


def parse_decide(values: dict[str, Any]) -> Decide:
    """Return the checked values; ConfigError for wrong ones."""
    try:
        read = {
            key: yaml.safe_load(value) if isinstance(value, str) else value
            for key, value in values.items()
        }
        return Decide.model_validate(read)
    except yaml.YAMLError:
        raise ConfigError(
            f"{values}: give seeds_max=24 and hours=6 as numbers"
        ) from None
    except ValidationError as error:
        raise ConfigError(describe_errors(error)) from None
