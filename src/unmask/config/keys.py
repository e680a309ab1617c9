"""The keys of the config: which exist, and which one a mistyped key may have meant."""

import difflib
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from unmask.config.schema import Config
from unmask.config.section import IS_PATH


def known_keys(section: type[BaseModel] = Config) -> list[str]:
    """List every dotted key that a config, or a command's arguments, may have."""
    return sorted({key for key, _ in _fields(section, "")})


@cache
def path_keys(section: type[BaseModel] = Config) -> frozenset[str]:
    """Return the keys whose values are files or folders."""
    return frozenset(key for key, field in _fields(section, "") if _is_path(field))


@cache
def part_sections() -> frozenset[str]:
    """Return the sections of a run that a class of the user's may take over.

    They have a `_target_`; their other keys are what that class is called with.
    """
    keys = known_keys()
    ending = "._target_"
    return frozenset(k.removesuffix(ending) for k in keys if k.endswith(ending))


def is_part_key(key: str) -> bool:
    """Tell whether a key may be one of a class of the user's: masking.count."""
    section = key.rpartition(".")[0]
    return any(f"{section}.".startswith(f"{part}.") for part in part_sections())


def _fields(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    """Yield each dotted key with its field, those of nested sections too."""
    for name, field in fields_by_key(section).items():
        key = f"{prefix}{name}"
        yield key, field
        for nested in nested_sections(field.annotation):
            yield from _fields(nested, f"{key}.")


def _is_path(field: FieldInfo) -> bool:
    """Tell whether a field is a path, or a path or null."""
    of_union = [getattr(t, "__metadata__", ()) for t in get_args(field.annotation)]
    return any(IS_PATH in metadata for metadata in (field.metadata, *of_union))


def fields_by_key(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields by the keys that users type: `from` for input_path."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def nested_sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the sections of the config that a field's type names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from nested_sections(argument)


def did_you_mean(key: str, known: Iterable[str]) -> str:
    """Return '; did you mean ...?' with the nearest key, '' where none is near."""
    known = list(known)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if not near:
        # people forget the section: `epochs` for `pretrain.epochs`
        by_last_part = {path.rsplit(".", 1)[-1]: path for path in known}
        last_parts = difflib.get_close_matches(
            key.rsplit(".", 1)[-1], by_last_part, n=1, cutoff=0.75
        )
        near = [by_last_part[last] for last in last_parts]
    return f"; did you mean {near[0]}?" if near else ""
