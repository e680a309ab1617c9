"""Sections of the config that name a class of the user's, or none.

Keys that such a section does not list are what the class is called with.
"""

import difflib
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field

from unmask.config.foreign import check_part, is_foreign


def check_own_class(value: str) -> str:
    """Return the name of a user's class; ValueError where it leads to none."""
    if not is_foreign(value):
        raise ValueError(f" = {value}: name a class of your own, as module.name")
    check_part(value)
    return value


OwnClass = Annotated[str, AfterValidator(check_own_class)]
OWN_CLASS: Any = Field(
    default=None,
    alias="_target_",
    description="`module.name` of a class of yours (docs/extending.md); null: none",
)


def refuse_other_keys(section: BaseModel, target: str | None) -> None:
    """Raise ValueError for a key that nobody reads, where no class takes it."""
    for key, value in (section.model_extra or {}).items():
        if target is None:
            near = difflib.get_close_matches(key, type(section).model_fields, n=1)
            hint = (
                f"; did you mean {near[0]}?"
                if near
                else "; a key of your own class needs the _target_ that names it"
            )
            # the message goes on behind the section's name
            raise ValueError(f".{key} = {value!r}: there is no such key{hint}")
