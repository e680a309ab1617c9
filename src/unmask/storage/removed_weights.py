"""Checkpoints that were removed to free space: what stands in their place."""

import json
from pathlib import Path
from typing import Any

FILE = "removed.json"


def removed_weights(stage: Path) -> str | None:
    """Say that a stage's weights were removed, and how to make them again.

    stage: its folder, or the folder of its checkpoints. None where they were not.
    """
    folder = stage if stage.name == "checkpoints" else stage / "checkpoints"
    if any(folder.glob("step=*.ckpt")):
        return None
    try:
        note: dict[str, Any] = json.loads((folder / FILE).read_text())
        return (
            f"its weights were removed to free space ({note['when']}); the result"
            f" stands; make them again in {note['seconds']:,.0f} s: {note['command']}"
            " rerun=true"
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None
