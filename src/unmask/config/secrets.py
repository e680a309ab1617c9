"""Passwords and tokens: refused where a config or an argument holds one, covered where a text would repeat it.

Known are the values of this process's environment whose names say what they are, and passwords in URLs.
"""

import os
import re
from collections.abc import Iterator
from typing import Any

NAMES = re.compile(
    r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)$", re.IGNORECASE
)
IN_URL = re.compile(r"(?<=://)[^/\s@'\"]+@")  # user:password@, or token@
SHORTEST = 12  # characters: TOKENIZERS_KEY=false is no secret
COVER = "***"


def masked(text: str) -> str:
    """The text without the secrets in it."""
    return _covered(text, _of_environment())


def refused(raw: Any) -> Iterator[str]:
    """A line for each value of a config that holds one: configs are kept in results, checkpoints and dashboards."""
    return _refused(raw, "", _of_environment())


def _covered(text: str, secrets: list[str]) -> str:
    for value in secrets:
        text = text.replace(value, COVER)
    return IN_URL.sub(f"{COVER}@", text)


def _refused(raw: Any, place: str, secrets: list[str]) -> Iterator[str]:
    if isinstance(raw, dict):
        for key, value in raw.items():
            yield from _refused(value, f"{place}.{key}" if place else str(key), secrets)
    elif isinstance(raw, list | tuple):
        for value in raw:
            yield from _refused(value, place, secrets)
    elif isinstance(raw, str) and (shown := _covered(raw, secrets)) != raw:
        yield (
            f"{place} = {shown}: holds a password or a token, and configs are kept with"
            " every result; leave it out, and let the tool that needs it find it in"
            " the environment or in ~/.netrc"
        )


def _of_environment() -> list[str]:
    """Longest first, as one may be a part of another. Places of files are none."""
    found = {value for name, value in os.environ.items() if NAMES.search(name)}
    return sorted(
        (v for v in found if len(v) >= SHORTEST and not v.startswith(("/", "~"))),
        key=len,
        reverse=True,
    )
