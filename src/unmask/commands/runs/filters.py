"""Filters of stages: by a dial, kind, state or age; with =, != or a comparison."""

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import yaml

from unmask.config.checks import ConfigError
from unmask.config.conf_files import CONF
from unmask.config.keys import did_you_mean, is_part_key, known_keys
from unmask.config.overrides import config_groups
from unmask.config.recipes import STAGES
from unmask.stages.encoders import set_name
from unmask.stages.progress import STATES
from unmask.stages.records import RunRecord
from unmask.stages.scope import depends_on

# what a stage has beside its dials
KEYS = (
    *("stage", "state", "experiment", "cell", "sweep", "start", "seed", "age"),
    *("encoder", "set"),
)
CHOICES: dict[str, tuple[str, ...]] = {
    "stage": tuple(STAGES),
    "state": STATES,
    "start": ("pretrained", "given", "random", "pixels", "images"),
}
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
}


@dataclass(frozen=True)
class Filter:
    """Hold one filter; of several values, as mask_ratio=0.5,0.75, one must fit."""

    key: str
    sign: str
    values: tuple[Any, ...]

    def __call__(self, record: RunRecord) -> bool:
        """Tell whether the stage fits; it does not where it does not have the key."""
        value = record_value(record, self.key)
        if value is None and not depends_on_key(record, self.key):
            return False
        fits = any(_compare(self.sign, value, wanted) for wanted in self.values)
        # != is that none of the values is the stage's
        return not fits if self.sign == "!=" else fits


def parse_filter(typed: str) -> Filter:
    """Return a filter; ConfigError for a key or value that does not exist."""
    match = re.fullmatch(r"([\w.]+)(>=|<=|!=|>|<|=)(.+)", typed)
    if not match:
        raise ConfigError(
            f"{typed}: write key=value, or a comparison in quotes: 'mask_ratio>0.5'"
        )
    key, sign, text = match.groups()
    known = [*KEYS, *known_keys(), *config_groups()]
    if key not in known and not is_part_key(key):
        raise ConfigError(f"{key}: there is no such key{did_you_mean(key, known)}")
    if key == "age":
        return Filter(key, sign, (_parse_age(typed, text),))
    words = [text] if text.startswith("[") else text.split(",")
    values = tuple(yaml.safe_load(word) if key not in KEYS else word for word in words)
    if key == "seed":
        values = tuple(yaml.safe_load(word) for word in words)
    for value in values:
        if value not in CHOICES.get(key, (value,)):
            raise ConfigError(
                f"{typed}: {key} is one of {', '.join(CHOICES[key])}"
                f"{did_you_mean(str(value), CHOICES[key])}"
            )
        if sign not in ("=", "!=") and not isinstance(value, int | float):
            raise ConfigError(f"{typed}: {value} is no number; use {key}={text}")
    return Filter(key, sign, values)


def _parse_age(typed: str, text: str) -> float:
    """Return seconds: of 30m, 2h, 1d or 1w."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if not match:
        raise ConfigError(
            f"{typed}: give an age such as 30m, 2h, 1d or 1w: 'age<1d' is the last day"
        )
    return float(match[1]) * SECONDS[match[2]]


def record_value(record: RunRecord, key: str) -> Any:
    """Return a stage's value of a dial, or of one of KEYS."""
    if key == "stage":
        return record.kind
    if key == "age":
        return age_seconds(record)
    if key == "set":
        return set_name(record.kind, record.config)
    if key in ("state", "start", "seed", "experiment", "cell", "sweep", "encoder"):
        return getattr(record, key)
    if not depends_on_key(record, key):
        return None
    if (CONF / key).is_dir():
        return record.dials.get(key) or default_choice(key)
    value: Any = record.config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def depends_on_key(record: RunRecord, key: str) -> bool:
    return key in KEYS or depends_on(key, record.kind, record.start, record.config)


def check_part_keys(keys: Iterable[str], records: Sequence[RunRecord]) -> None:
    """Raise ConfigError for a key of a user's class that none of the stages has.

    Which keys such classes have, the ledger alone knows.
    """
    known = [*KEYS, *known_keys(), *config_groups()]
    own = [key for key in keys if key not in known and is_part_key(key)]
    for key in own:
        if records and all(record_value(record, key) is None for record in records):
            hint = did_you_mean(key, known)
            raise ConfigError(f"{key}: no stage has such a key{hint}")


@cache
def default_choice(group: str) -> str | None:
    """Return the file of a group that is chosen where nobody chooses one."""
    content = yaml.safe_load((CONF / "config.yaml").read_text())
    for entry in content["defaults"]:
        if isinstance(entry, dict) and group in entry:
            return str(entry[group])
    return None


def age_seconds(record: RunRecord) -> float | None:
    """Return how long ago a stage was finished, or else begun."""
    at = record.ended or record.started
    return (datetime.now(UTC) - at).total_seconds() if at else None


def _compare(sign: str, value: Any, wanted: Any) -> bool:
    if isinstance(value, list) and isinstance(wanted, int):
        # one number stands for both sides of an image
        wanted = [wanted] * len(value)
    if sign in ("=", "!="):
        return value == wanted
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and SIGNS[sign](value, wanted)
