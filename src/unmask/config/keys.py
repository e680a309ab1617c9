"""Keys of the config: which there are, and which one was meant."""

import difflib
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from pydantic import BaseModel

from unmask.config.schema import Config


def known_keys() -> list[str]:
    """Every dotted key a config may have."""
    return sorted(set(_keys(Config, "")))


def _keys(part: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in part.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        yield key
        for inner in models_in(field.annotation):
            yield from _keys(inner, f"{key}.")


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections of the config that a field's type names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models_in(inner)


def suggestion(key: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' where something is near, by the whole path or by its last part."""
    known = list(known)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if not near:
        lasts = {path.rsplit(".", 1)[-1]: path for path in known}
        near = [
            lasts[last]
            for last in difflib.get_close_matches(
                key.rsplit(".", 1)[-1], lasts, n=1, cutoff=0.75
            )
        ]
    return f"; did you mean {near[0]}?" if near else ""


def key_of(override: str) -> str:
    """What an override sets: `image_size` of `+image_size=32`."""
    return override.partition("=")[0].lstrip("+~")
