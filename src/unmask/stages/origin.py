"""Which command made a stage, and of which sweep: origin.json in its folder.

It is no part of the fingerprint: a stage is the same whoever made it.
"""

import os
import re
import shlex
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.stages.fingerprint import StageSpec
from unmask.stages.ledger import utc_now
from unmask.stages.sweeps import SWEEP_VARIABLE
from unmask.storage.atomic import read_note, write_json

FILE = "origin.json"


@dataclass(frozen=True)
class Origin:
    """Say who asked for a stage; overrides: as typed, of one run."""

    overrides: tuple[str, ...] = ()
    sweep: str | None = None

    @property
    def command(self) -> str:
        return f"python src/train.py {shlex.join(self.overrides)}".strip()

    @property
    def experiment(self) -> str | None:
        """Return the experiment of one run, such as demo."""
        for override in self.overrides:
            if typed := re.fullmatch(r"\+?experiment=(\w+)", override):
                return None if typed[1] == "null" else typed[1]
        return None


def this_origin(overrides: Sequence[str]) -> Origin:
    """Return the origin of what this process makes."""
    return Origin(tuple(overrides), os.environ.get(SWEEP_VARIABLE))


def write_origin(folder: Path, spec: StageSpec, origin: Origin) -> None:
    """Write what asks for the stage now; the time when it was first begun stays."""
    earlier = read_origin_file(folder)
    content = {
        # what the folder's name and the config do not tell
        "title": spec.title,
        "start": spec.start,
        "parent": spec.parent.key if spec.parent else None,
        "command": origin.command,
        "overrides": list(origin.overrides),
        # a run of one's own may go on with what a sweep has begun
        "sweep": origin.sweep or earlier.get("sweep"),
        "host": socket.gethostname(),
        "started": earlier.get("started") or utc_now(),
    }
    write_json(folder / FILE, content)


def read_origin_file(folder: Path) -> dict[str, Any]:
    """Return the content of origin.json; nothing where it is missing or damaged.

    Versions before 0.2 wrote none.
    """
    return read_note(folder / FILE)
