"""Where src/verify.py interrupts a stage, and how: in mid-epoch, at an epoch's last batch, right after it, later."""

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from unmask.config.schema import STEPPED
from unmask.stages.fingerprint import StageSpec
from unmask.stages.plan import Plan
from unmask.stages.sizes import steps


def trained(plan: Plan) -> list[StageSpec]:
    return [spec for spec in plan.stages if spec.kind in STEPPED]


def steps_of(plan: Plan, kind: str) -> tuple[int, int]:
    """How many steps are made of a stage, and how many an epoch has."""
    return steps(plan.config, kind, plan.training_images)


class How(StrEnum):
    PROCESS = "kill -9 of one process"  # where there are several; else of the command
    COMMAND = "kill -9 of the command"
    SIGTERM = "SIGTERM"


class Interruption(NamedTuple):
    """held: right after this step, before it is saved; else as soon as it is seen to be made, in whatever follows."""

    step: int
    how: How
    held: bool


def interruptions(steps: int, per_epoch: int, kills: int) -> list[Interruption]:
    """At most `kills`, in order; the last of them finds the run wherever it is then.

    Where no epoch ends within these steps, they are in its middle.
    """
    reached = per_epoch + 1 < steps
    first = (
        [per_epoch // 2, per_epoch, per_epoch + 1]
        if reached
        else [steps // 4, steps // 2, steps * 3 // 4]
    )
    more = max(0, kills - len(first))
    later = [
        first[-1] + (steps - first[-1]) * i // (more + 1) for i in range(1, more + 1)
    ]
    found = [
        Interruption(step, how, True) for step, how in zip(first, How, strict=True)
    ][:kills]
    found += [
        Interruption(step, _later(i, step, per_epoch), i < more - 1)
        for i, step in enumerate(later)
    ]
    return list(_rising(found, steps))


def _later(i: int, step: int, per_epoch: int) -> How:
    """Who is asked at an epoch's last batch makes one more step: that one may be the next place."""
    return How.SIGTERM if i % 2 and step % per_epoch else How.COMMAND


def _rising(found: list[Interruption], steps: int) -> Iterator[Interruption]:
    last = 0
    for one in found:
        if last < one.step < steps:
            yield one
            last = one.step
