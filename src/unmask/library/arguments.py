"""The arguments of `import unmask`, of any type that a caller may give."""

import os
import reprlib
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from unmask.config.section import expand_home
from unmask.library.errors import InputError


def checked(name: str, value: object, kind: Any) -> Any:
    """Return an argument as the type that it should have; InputError for others."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise InputError(f"{name}={reprlib.repr(value)}: {message}") from None


def as_path(name: str, value: object) -> Path:
    """Return a path with ~ as the home folder, where no file is called so."""
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    # '' would be the folder that the process works in
    if not isinstance(text, str) or not text:
        raise InputError(f"{name}={reprlib.repr(value)}: give a path")
    return Path(text) if os.path.lexists(text) else Path(expand_home(text))
