"""What a training and the process that follows it say to each other, line by line.

The follower reads its job, `begin` and `end <code>`; where the pipe ends without an
`end`, the training was killed. It writes messages.
"""

import json
import os
import select
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

BEGIN = "begin"
END = "end"


@dataclass(frozen=True)
class WandbJob:
    """Say where a run of W&B goes.

    falls_back: log offline where W&B cannot be reached. sends_artifacts: send the
    stage's files and what it was made from, which takes a server.
    """

    project: str
    entity: str | None
    online: bool
    finish_seconds: float
    falls_back: bool = True
    sends_artifacts: bool = False
    sends_weights: bool = False


@dataclass(frozen=True)
class Job:
    """Say which stage is followed, and on which dashboards it is shown.

    folder: the stage's. tensorboard: the folder in it for event files. trackio: a
    project. device: the kind of device that trains, where it is known.
    """

    folder: str
    wandb: WandbJob | None = None
    tensorboard: str | None = None
    trackio: str | None = None
    device: str | None = None

    def to_line(self) -> str:
        return json.dumps(asdict(self))


def read_job(line: str) -> Job:
    """Return the job that a line says."""
    content = json.loads(line)
    wandb = content.pop("wandb")
    return Job(**content, wandb=WandbJob(**wandb) if wandb else None)


@dataclass(frozen=True)
class Message:
    """Hold what the user is to know; a fault has ended a dashboard."""

    kind: Literal["note", "warning", "fault"]
    text: str

    def to_line(self) -> str:
        return json.dumps(asdict(self))


Say = Callable[[Message], None]


def read_message(line: str) -> Message:
    """Return the message that a line says."""
    content: dict[str, Any] = json.loads(line)
    return Message(**content)


def read_lines(descriptor: int, seconds: float) -> Iterator[str]:
    """Yield each line of a pipe, and "" after every `seconds` without one.

    Ends where the other side has closed the pipe, or has died.
    """
    pending = b""
    while True:
        ready, _, _ = select.select([descriptor], [], [], seconds)
        if not ready:
            yield ""
            continue
        chunk = os.read(descriptor, 65536)
        if not chunk:
            return
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            yield line.decode()
