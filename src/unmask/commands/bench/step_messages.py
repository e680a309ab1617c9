"""What the step benchmark and its processes say to each other. Imports no torch."""

from dataclasses import dataclass
from typing import Any

from unmask.commands.bench.entries import Entry

# what a process is asked for: a step, or to end; that of products: a precision
TURN = "turn"
END = "end"


@dataclass(frozen=True)
class Request:
    """Ask for a contestant, or without an entry for the rate of large products."""

    spec: dict[str, Any]
    entry: Entry | None = None


@dataclass(frozen=True)
class Facts:
    """Say what a contestant is, after its first step.

    loss: of that step, with the same weights, images and masks in all contestants.
    parameters: those with a gradient. flops: of a step. peak, available: bytes of this
    process at most, and bytes that are left when it rests. before: bytes that it held
    before there was a model.
    """

    version: str
    optimizer: str
    loss: float
    parameters: int
    flops: float
    before: int
    peak: int
    available: int


@dataclass(frozen=True)
class Failure:
    """Hold the first line of what went wrong in a process."""

    message: str
