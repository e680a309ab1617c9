"""The reference page of the config, made from the schema.

`make reference` writes it to docs/config.md.
"""

from collections.abc import Iterator
from typing import Any, get_args

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel

from unmask.config.keys import nested_sections
from unmask.config.schema import Config, Scale

HEAD = """# Every key of the config

Made by `make reference` from the schema that checks each run.
Values are in `conf/`: `python src/train.py --cfg job` prints them.

| key | may be | meaning |
|---|---|---|
"""
TYPE_NAMES = {
    "int": "integer",
    "float": "number",
    "str": "text",
    "bool": "true or false",
    "Any": "anything",
}
# the attribute that holds a bound, and its sign on the page
BOUNDS = {
    Ge: ("ge", ">="),
    Gt: ("gt", ">"),
    Le: ("le", "<="),
    Lt: ("lt", "<"),
    MinLen: ("min_length", "length >="),
}


def render_reference() -> str:
    """Return the page as Markdown; a key that several sections share is one row."""
    keys_of_row: dict[tuple[str, str, str], list[str]] = {}
    for key, values, meaning in _rows(Config, ""):
        # `finetune.mixup` and `scratch.mixup` are one row if all else is the same
        key_in_section = key.partition(".")[2] or key
        keys = keys_of_row.setdefault((key_in_section, values, meaning), [])
        if key not in keys:
            keys.append(key)
    rows = (
        f"| {_join_keys(keys)} | {values} | {meaning} |\n"
        for (_, values, meaning), keys in keys_of_row.items()
    )
    return HEAD + "".join(rows)


def _join_keys(keys: list[str]) -> str:
    """Return '`finetune.mixup`, also in `scratch`'."""
    first, *others = keys
    sections = ", ".join(f"`{key.partition('.')[0]}`" for key in others)
    return f"`{first}`" + (f", also in {sections}" if sections else "")


def _rows(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    """Yield (key, allowed values, meaning) of every field, nested ones as well."""
    fields = section.model_fields.items()
    # a section's own keys come before its sections
    for name, field in sorted(
        fields, key=lambda item: any(nested_sections(item[1].annotation))
    ):
        key = f"{prefix}{field.alias or name}"
        nested = list(nested_sections(field.annotation))
        if not nested:
            values = _describe_values(field.annotation, field.metadata)
            yield key, values, str(field.description)
        # a scale's values are checked in its file, and nobody types them
        if nested == [Scale]:
            yield (
                key,
                "a file of `conf/scale/`",
                "the size at which the paper's experiments are run",
            )
            continue
        for model in nested:
            yield from _rows(model, f"{key}.")


def _describe_values(annotation: Any, metadata: list[Any]) -> str:
    """Return the type and its bounds in words."""
    leaves = _leaves(annotation)
    literals = [leaf for leaf in leaves if isinstance(leaf, str)]
    if literals:
        # data.in_memory alone mixes both
        booleans = "true, false, null, " if bool in leaves else ""
        # of `unmask.masking.GridMasking` the page shows the class
        names = [f"`{value.rsplit('.', 1)[-1]}`" for value in dict.fromkeys(literals)]
        return booleans + ", ".join(names)
    types = [
        TYPE_NAMES.get(leaf.__name__, leaf.__name__)
        for leaf in leaves
        if isinstance(leaf, type) and leaf is not type(None)
    ]
    words = " or ".join(dict.fromkeys(types)) or "anything"
    bounds = _describe_bounds([*metadata, *_nested_metadata(annotation)])
    return words + bounds + (" or null" if type(None) in leaves else "")


def _leaves(annotation: Any) -> list[Any]:
    """List what a type is made of: str, int and None of `list[str | int] | None`."""
    arguments = get_args(annotation)
    if not arguments:
        return [annotation]
    return [leaf for argument in arguments for leaf in _leaves(argument)]


def _nested_metadata(annotation: Any) -> list[Any]:
    """List the bounds inside a type, as of `Annotated[int, Field(ge=1)]` in a list."""
    annotated = getattr(annotation, "__metadata__", ())
    metadata = [
        bound for field in annotated for bound in getattr(field, "metadata", [])
    ]
    for argument in get_args(annotation):
        metadata += _nested_metadata(argument)
    return metadata


def _describe_bounds(metadata: list[Any]) -> str:
    bounds = []
    for bound in metadata:
        if type(bound) in BOUNDS:
            attribute, sign = BOUNDS[type(bound)]
            bounds.append(f"{sign} {getattr(bound, attribute):g}")
    return f" {', '.join(dict.fromkeys(bounds))}" if bounds else ""


if __name__ == "__main__":
    print(render_reference(), end="")
