"""The check of a config: a line for each error.

It says what came, what is allowed, and what to type.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from unmask.config.data import Container
from unmask.config.datasets import INSTALLED_DATASETS
from unmask.config.foreign import check_part, is_foreign
from unmask.config.image_checks import check_images
from unmask.config.keys import did_you_mean, fields_by_key, known_keys
from unmask.config.model_checks import check_geometry, check_target, check_widths
from unmask.config.schema import Config
from unmask.config.secrets import environment_secrets, redact
from unmask.config.section import Section
from unmask.config.stage_checks import check_stages, check_unused

AnySection = TypeVar("AnySection", bound=Section)
# stands for folders that nobody named and nobody will read
PLACEHOLDER_ROOT = "/not/here"


class ConfigError(ValueError):
    """Errors of a config, one a line; the command ends with exit code 2."""


def raise_errors(errors: Iterable[str]) -> None:
    """Raise ConfigError with every error message, if there are any."""
    text = "\n".join(errors)
    if text:
        raise ConfigError(text)


def fill_missing_roots(raw: dict[str, Any]) -> dict[str, Any]:
    """Fill in folders that are not set: prices and comparisons read no image."""
    for section in ("data", "robustness"):
        if (
            raw[section]["root"] is None
            and not raw[section].get("sets")
            and raw[section]["source"] not in INSTALLED_DATASETS
        ):
            raw[section]["root"] = PLACEHOLDER_ROOT
    return raw


def check(raw: dict[str, Any]) -> Config:
    """Return the typed config; ConfigError with every error that is found."""
    refuse_secrets(raw)
    config = validate(Config, raw)
    # types and ranges are right: now what must fit together
    errors = [
        *check_geometry(config),
        *check_target(config),
        *check_widths(config),
        *check_stages(config),
        *check_images(config),
        *check_unused(config),
    ]
    raise_errors(errors)
    return config


def validate(
    section: type[AnySection], raw: Any, typed: Sequence[str] = ()
) -> AnySection:
    """Return the typed section; ConfigError with a line for each wrong key or value."""
    try:
        return section.model_validate(raw, context={"typed": typed})
    except ValidationError as error:
        raise ConfigError(describe_errors(error)) from None


def parse_arguments(
    section: type[AnySection], raw: dict[str, Any], defaults: str, typed: list[str]
) -> AnySection:
    """Return a command's arguments; ConfigError with a line for each error.

    defaults: the text of the command's YAML file, whose comments say what to give.
    typed: the keys that were typed; the section's validators may ask for them.
    """
    raise_errors(
        f"{key}: missing; give {_comment_of(key, defaults)}"
        for key, field in fields_by_key(section).items()
        if raw.get(key) is None and type(None) not in get_args(field.annotation)
    )
    refuse_secrets(raw)
    return validate(section, raw, typed)


def _comment_of(key: str, defaults: str) -> str:
    """Return the comment beside a key, which may go on in the lines below."""
    beside = re.search(rf"^{key}: .*?# (.*(?:\n +# .*)*)", defaults, re.MULTILINE)
    return re.sub(r"\n +# ", " ", beside[1]) if beside else "it a value"


def refuse_secrets(raw: Any) -> None:
    """Raise ConfigError where a value holds a password or a token.

    Configs are stored with results, in checkpoints and on dashboards.
    """
    raise_errors(_check_secrets(raw, "", environment_secrets()))


def _check_secrets(value: Any, key: str, secrets: list[str]) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _check_secrets(inner, f"{key}.{name}" if key else name, secrets)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _check_secrets(inner, key, secrets)
    elif isinstance(value, str):
        shown = redact(value, secrets)
        if shown != value:
            yield (
                f"{key} = {shown}: holds a password or a token, and configs are stored"
                " with every result; leave it out: the tool that needs it reads it"
                " from the environment or from ~/.netrc"
            )


def complete_config(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the config of a checkpoint with the keys that it is too old to have.

    Their values are what the code did before there was a choice.
    """
    decoder = raw.get("decoder")
    if isinstance(decoder, dict):
        raw = raw | {"decoder": {"mlp_ratio": 4.0} | decoder}
    data = raw.get("data")
    if isinstance(data, dict):
        raw = raw | {"data": {"eval_view": "whole_pixels"} | data}
    return {"weights": None, "grid": None, "positions": "timm"} | raw


def check_checkpoint_config(raw: dict[str, Any]) -> Config:
    """Return the config of a checkpoint; ConfigError where another version wrote it."""
    _check_files_of_user(raw)
    try:
        return check(complete_config(raw))
    except ConfigError as error:
        first = str(error).splitlines()[0]
        raise ConfigError(
            f"the config in this checkpoint is another version's ({first}); use the"
            " version that trained it"
        ) from None


def _check_files_of_user(raw: dict[str, Any]) -> None:
    """Raise ConfigError where a class of the user's that a checkpoint names is gone."""
    sections = (raw.get(name) or {} for name in ("masking", "target"))
    for name in [str(section.get("_target_", "")) for section in sections]:
        if "." in name and is_foreign(name):
            try:
                check_part(name)
            except ValueError as error:
                raise ConfigError(f"this checkpoint was made with {error}") from None


def describe_errors(error: ValidationError) -> str:
    """Return a line for each error that pydantic found."""
    # one value may break several types of a union in the same way
    lines = dict.fromkeys(_describe_error(details) for details in error.errors())
    return redact("\n".join(lines))


def _describe_error(details: Any) -> str:
    kind = details["type"]
    value = details["input"]
    message = details["msg"].removeprefix("Value error, ")
    # of a union the path also names the class that was tried
    key = ".".join(str(part) for part in details["loc"] if "unmask." not in str(part))
    if kind == "extra_forbidden":
        return (
            f"{key} = {value!r}: there is no such key{did_you_mean(key, known_keys())}"
        )
    if kind == "missing":
        return f"{key}: missing; give it a value"
    if kind == "value_error" and message.startswith((".", " ")):
        return f"{key}{message}"
    if kind == "value_error":
        # raised in this project, most with the key at the beginning
        is_complete = not key or message.startswith(("data", key))
        return message if is_complete else f"{key}: {message}"
    if kind.startswith("bool"):
        message = "give true or false"
    # pydantic has an error for each type of this union
    if key.startswith("data.in_memory."):
        key = "data.in_memory"
        message = "give true, false, device or null"
    if key == "data.source" and value in get_args(Container):
        message = (
            "this key names a data set; how its images are stored is another key:"
            f" source={value}"
        )
    # src/reconstruct.py takes several
    if key.startswith("mask_ratio"):
        key = "mask_ratio"
        message += (
            " (a fraction of the patches between 0 and 1, both excluded; the paper's is"
            " 0.75)"
        )
    return f"{key} = {value!r}: {message}"
