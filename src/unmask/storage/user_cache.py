"""The user's cache: what may be lost, since it can be made again."""

import os
from contextlib import suppress
from pathlib import Path

from unmask.storage.atomic import write_text


def user_cache() -> Path | None:
    """Return $XDG_CACHE_HOME/unmask, or ~/.cache/unmask; None without a home."""
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "unmask"
    try:
        return Path.home() / ".cache" / "unmask"
    except RuntimeError:
        return None


def keep(path: Path | None, text: str) -> None:
    """Write a file of the cache; where that fails, its content is made again."""
    with suppress(OSError):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
