"""The reference page of the config, made from the schema: `make reference` writes docs/config.md."""

from collections.abc import Iterator
from typing import Any, get_args

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel

from unmask.config.keys import models_in
from unmask.config.schema import Config, Scale

HEAD = """# Every key of the config

Made by `make reference` from the schema that checks each run. Values are in `conf/`: `python src/train.py --cfg job`.

| key | may be | meaning |
|---|---|---|
"""


def reference() -> str:
    """The page as Markdown; a key that several sections have alike is one row."""
    keys: dict[tuple[str, str, str], list[str]] = {}
    for key, values, meaning in _rows(Config, ""):
        own = keys.setdefault((key.partition(".")[2] or key, values, meaning), [])
        own += [] if key in own else [key]
    rows = (
        f"| {_joined(same)} | {values} | {meaning} |\n"
        for (_, values, meaning), same in keys.items()
    )
    return HEAD + "".join(rows)


def _joined(keys: list[str]) -> str:
    """`finetune.mixup`, and the same in `scratch`, ..."""
    others = ", ".join(f"`{key.partition('.')[0]}`" for key in keys[1:])
    return f"`{keys[0]}`" + (f", also in {others}" if others else "")


def _rows(part: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in part.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        inner = list(models_in(field.annotation))
        if not inner:
            yield key, _values(field.annotation, field.metadata), str(field.description)
        if inner == [Scale]:  # its values are checked in its file, and never typed
            yield (
                key,
                "a file of `conf/scale/`",
                "the size at which tables of the paper are made",
            )
            continue
        for model in inner:
            yield from _rows(model, f"{key}.")


def _values(annotation: Any, metadata: list[Any]) -> str:
    """The type and its bounds in words."""
    bounds = _bounds([*metadata, *_nested_metadata(annotation)])
    literals = [value for value in _leaves(annotation) if isinstance(value, str)]
    if literals:
        switch = "true, false, null, " if bool in _leaves(annotation) else ""
        return switch + ", ".join(
            f"`{value.rsplit('.', 1)[-1]}`" for value in dict.fromkeys(literals)
        )
    kinds = [
        leaf.__name__
        for leaf in _leaves(annotation)
        if isinstance(leaf, type) and leaf is not type(None)
    ]
    words = {
        "int": "integer",
        "float": "number",
        "str": "text",
        "bool": "true or false",
        "Any": "anything",
    }
    found = list(dict.fromkeys(words.get(kind, kind) for kind in kinds)) or ["anything"]
    optional = " or null" if type(None) in _leaves(annotation) else ""
    return f"{' or '.join(found)}{bounds}{optional}"


def _leaves(annotation: Any) -> list[Any]:
    inner = get_args(annotation)
    return [leaf for part in inner for leaf in _leaves(part)] if inner else [annotation]


def _nested_metadata(annotation: Any) -> list[Any]:
    own = list(getattr(annotation, "__metadata__", ()))
    fields = [m for extra in own for m in getattr(extra, "metadata", [])]
    return [
        *fields,
        *(m for part in get_args(annotation) for m in _nested_metadata(part)),
    ]


def _bounds(metadata: list[Any]) -> str:
    signs = {
        Ge: ("ge", ">="),
        Gt: ("gt", ">"),
        Le: ("le", "<="),
        Lt: ("lt", "<"),
        MinLen: ("min_length", "length >="),
    }
    said = [
        f"{signs[type(m)][1]} {getattr(m, signs[type(m)][0]):g}"
        for m in metadata
        if type(m) in signs
    ]
    return f" {', '.join(dict.fromkeys(said))}" if said else ""


if __name__ == "__main__":
    print(reference(), end="")
