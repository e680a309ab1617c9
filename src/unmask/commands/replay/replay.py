"""Repeat a recorded step; print whether it is the same and which remedies help."""

import math

from rich.console import Console
from rich.table import Table

from unmask.commands.replay.rebuild import (
    Record,
    ReplayedStep,
    read_record,
    rebuild_step,
)
from unmask.commands.replay.remedies import Outcome, Worst, attempt, cures, worst_image

NOT_THE_SAME = (
    "The same weights and samples give another loss: images that changed, another"
    " version of the code or of torch, or a fault of the device may be the cause."
)


def replay(path: str, console: Console) -> bool:
    """Repeat a recorded step, print what helps, and return whether it was the same.

    Raises ConfigError where there is no record, a damaged one, or where its images are
    gone.
    """
    record = read_record(path)
    console.print(describe_record(record), soft_wrap=True)
    step = rebuild_step(record)
    worst = worst_image(step)
    # the first one changes nothing
    as_recorded, *others = cures(step, worst)
    outcomes = [attempt(step, as_recorded)]
    agreement = record.compare_losses(outcomes[0].losses, outcomes[0].gradient)
    device = step.micro_batches[0].ids_B.device.type
    console.print(
        f"made again on {device}: loss {outcomes[0].loss:.6g}:"
        f" {agreement or 'not the same'}",
        soft_wrap=True,
    )
    outcomes += [attempt(step, cure) for cure in others]
    console.print(outcomes_table(outcomes))
    console.print(describe_worst_image(step, worst), soft_wrap=True)
    # remedies for another step would say nothing about this one
    verdict = describe_cures(record, outcomes) if agreement else NOT_THE_SAME
    console.print(verdict, soft_wrap=True)
    return agreement is not None


def describe_record(record: Record) -> str:
    """Return what was recorded, and where the first value was not finite."""
    rank_zero = record.rank_zero
    count = sum(len(ids) for rank in record.ranks for ids in rank["samples"])
    text = (
        f"{rank_zero['stage']} {rank_zero['fingerprint']}, step {record.step}, epoch"
        f" {rank_zero['epoch']}: {count} samples, loss {rank_zero['loss']}, gradient"
        f" norm {rank_zero['gradient_norm']}, learning rate"
        f" {rank_zero['learning_rate']:.3g}, {rank_zero['precision']} on"
        f" {rank_zero['device']}"
    )
    # the largest activation of each layer in order; JSON has "nan" and "inf" as text
    for layer, largest in rank_zero["activations"].items():
        if isinstance(largest, str):
            return f"{text}\nfirst not finite in {layer}"
    return text


def outcomes_table(outcomes: list[Outcome]) -> Table:
    """Return a table with a row for each remedy."""
    table = Table("the step", "loss", "gradient norm", "loss after it", "finite")
    for outcome in outcomes:
        norm = f"{outcome.gradient:.4g}"
        if outcome.clipped is not None and math.isfinite(outcome.gradient):
            norm += f", cut to {outcome.clipped:.4g}"
        table.add_row(
            outcome.cure.name,
            f"{outcome.loss:.6g}",
            norm,
            f"{outcome.after:.6g}",
            "yes" if outcome.finite else "no",
        )
    return table


def describe_worst_image(step: ReplayedStep, worst: Worst) -> str:
    """Name the worst image, or say that it is not one image's fault."""
    if worst.bad == worst.images:
        return (
            f"Each of the {worst.images} images has a loss that is not finite: it is"
            " not one image's fault."
        )
    others = f"; {worst.bad} of {worst.images} are not finite" if worst.bad else ""
    sample = step.describe_sample(worst.sample)
    return f"Worst image: {sample} (loss {worst.loss:.6g}{others})"


def describe_cures(record: Record, outcomes: list[Outcome]) -> str:
    """Say in a sentence which remedies help."""
    as_recorded, *alone, together = outcomes
    if as_recorded.finite:
        return "The step is finite as it was recorded: there is nothing to cure in it."
    helping = [outcome.cure.name for outcome in alone if outcome.finite]
    if helping:
        return f"What helps: {'; '.join(helping)} (each alone)."
    if together.finite:
        return "What helps: nothing alone, but all together."
    # nothing helps: the cause lies in earlier steps
    if record.rank_zero["finite"]["weights"]:
        name, largest = max(
            record.rank_zero["parameters"].items(), key=lambda item: float(item[1])
        )
        grown = f"the largest weight was {largest:.3g} ({name}) when the step began"
    else:
        grown = "the weights were not finite when the step began"
    return (
        f"What helps: nothing here; {grown}. Lower base_lr or lengthen warmup_epochs,"
        " or look at the images."
    )
