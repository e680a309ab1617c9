"""Passwords and tokens: refused in configs and arguments, hidden in printed texts.

A secret is the value of an environment variable whose name says so, or the user part
of a URL.
"""

import os
import re
from collections.abc import Iterator
from typing import Any

SECRET_NAME = re.compile(
    r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)$", re.IGNORECASE
)
URL_CREDENTIALS = re.compile(r"(?<=://)[^/\s@'\"]+@")  # user:password@, or token@
# characters: TOKENIZERS_KEY=false holds no secret
MIN_SECRET_LENGTH = 12
REDACTED = "***"


def redact(text: str) -> str:
    """Return the text with every secret replaced by ***."""
    return _redact(text, _environment_secrets())


def check_secrets(raw: Any) -> Iterator[str]:
    """Yield an error message for each value of a config that holds a secret.

    Configs are stored with results, in checkpoints and on dashboards.
    """
    return _check_value(raw, "", _environment_secrets())


def _redact(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    return URL_CREDENTIALS.sub(f"{REDACTED}@", text)


def _check_value(value: Any, key: str, secrets: list[str]) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            inner_key = f"{key}.{name}" if key else str(name)
            yield from _check_value(inner, inner_key, secrets)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _check_value(inner, key, secrets)
    elif isinstance(value, str):
        shown = _redact(value, secrets)
        if shown != value:
            yield (
                f"{key} = {shown}: holds a password or a token, and configs are stored"
                " with every result; leave it out: the tool that needs it reads it"
                " from the environment or from ~/.netrc"
            )


def _environment_secrets() -> list[str]:
    """List the secrets of this process's environment, the longest first."""
    values = {value for name, value in os.environ.items() if SECRET_NAME.search(name)}
    secrets = [
        value
        for value in values
        # paths are no secrets: SSH_KEY=/home/me/key
        if len(value) >= MIN_SECRET_LENGTH and not value.startswith(("/", "~"))
    ]
    # one secret may be a part of another
    return sorted(secrets, key=len, reverse=True)
