"""Passwords and tokens: refused in configs and arguments, hidden in printed texts.

A secret is the value of an environment variable whose name says so, or the user part
of a URL.
"""

import os
import re
from collections.abc import Sequence

SECRET_NAME = re.compile(
    r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)$", re.IGNORECASE
)
URL_CREDENTIALS = re.compile(r"(?<=://)[^/\s@'\"]+@")  # user:password@, or token@
# characters: TOKENIZERS_KEY=false holds no secret
MIN_SECRET_LENGTH = 12
REDACTED = "***"


def redact(text: str, secrets: Sequence[str] | None = None) -> str:
    """Return the text with every secret replaced by ***.

    secrets: those of the environment, where a caller of many texts has listed them.
    """
    for secret in environment_secrets() if secrets is None else secrets:
        text = text.replace(secret, REDACTED)
    return URL_CREDENTIALS.sub(f"{REDACTED}@", text)


def environment_secrets() -> list[str]:
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
