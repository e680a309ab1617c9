"""Where and how src/verify.py interrupts a stage.

It does so in the middle of an epoch, at its last batch, right after it, and later.
"""

from enum import StrEnum
from typing import NamedTuple

from unmask.config.recipes import makes_steps
from unmask.stages.fingerprint import StageSpec
from unmask.stages.plan import Plan
from unmask.stages.sizes import step_counts


def trained_stages(plan: Plan) -> list[StageSpec]:
    """Return the stages that make steps; others only measure."""
    return [spec for spec in plan.stages if makes_steps(plan.config, spec.kind)]


def count_steps(plan: Plan, kind: str) -> tuple[int, int]:
    """Return how many steps a stage makes, and how many an epoch has."""
    return step_counts(plan.config, kind, plan.num_training_images)


class How(StrEnum):
    """Name the ways to interrupt, as they are printed."""

    # with a single process, the whole command is killed instead
    PROCESS = "kill -9 of one process"
    COMMAND = "kill -9 of the command"
    SIGTERM = "SIGTERM"


class Interruption(NamedTuple):
    """Interrupt a stage at a step.

    is_held: the run is held right after the step, before it saves. Otherwise it is
    interrupted wherever it is once the step is seen to be done.
    """

    step: int
    how: How
    is_held: bool


def interruptions(steps: int, per_epoch: int, kills: int) -> list[Interruption]:
    """Return at most `kills` interruptions of a stage, in order.

    The first three are around the end of the first epoch; where these steps do not
    reach it, they are spread evenly. Later ones follow up to the end, and the last of
    those does not hold the run.
    """
    if per_epoch + 1 < steps:
        first_steps = [per_epoch // 2, per_epoch, per_epoch + 1]
    else:
        first_steps = [steps // 4, steps // 2, steps * 3 // 4]
    planned = [
        Interruption(step, how, True)
        for step, how in zip(first_steps, How, strict=True)
    ][:kills]
    start = first_steps[-1]
    num_later = kills - len(planned)
    for i in range(num_later):
        step = start + (steps - start) * (i + 1) // (num_later + 1)
        # never SIGTERM at an epoch's last batch: a run that is asked to leave there
        # makes one more step, which may be that of the next interruption
        how = How.SIGTERM if i % 2 and step % per_epoch else How.COMMAND
        planned.append(Interruption(step, how, i < num_later - 1))
    before = [0, *(each.step for each in planned)]
    return [
        each
        for last, each in zip(before, planned, strict=False)
        if last < each.step < steps
    ]
