"""What src/replay.py prints: whether a recorded step is the same when it is made again, and which cures help it."""

import math

from rich.console import Console
from rich.table import Table

from unmask.commands.replay.record import Record, ReplayedStep, read_record, rebuild
from unmask.commands.replay.remedies import Outcome, Worst, attempt, cures, worst_image


def replay(place: str, console: Console) -> bool:
    """Print what was recorded, the step made again and the cures; whether the step was the same.

    Raises ConfigError where there is no record, a damaged one, or not the images it was made of.
    """
    record = read_record(place)
    console.print(recorded(record), soft_wrap=True)
    scene = rebuild(record)
    worst = worst_image(scene)
    tried = cures(scene, worst)
    outcomes = [attempt(scene, tried[0])]
    agreement = record.agrees(outcomes[0].losses, outcomes[0].gradient)
    said = f"loss {outcomes[0].loss:.6g}: {agreement or 'not the same'}"
    where = scene.parts[0].ids_B.device.type
    console.print(f"made again on {where}: {said}", soft_wrap=True)
    outcomes += [attempt(scene, cure) for cure in tried[1:]]
    console.print(table(outcomes))
    console.print(about_images(scene, worst), soft_wrap=True)
    console.print(
        verdict(record, outcomes) if agreement else NOT_THE_SAME, soft_wrap=True
    )
    return agreement is not None


NOT_THE_SAME = (
    "The same weights and samples give another loss: images that changed, another"
    " version of the code or of torch, or a fault of the device may be the cause."
)


def recorded(record: Record) -> str:
    first = record.first
    broken = next(
        (
            name
            for name, largest in first["activations"].items()
            if isinstance(largest, str)
        ),
        None,
    )
    count = sum(len(ids) for rank in record.ranks for ids in rank["samples"])
    lines = (
        f"{first['stage']} {first['fingerprint']}, step {record.step}, epoch"
        f" {first['epoch']}: {count} samples, loss {first['loss']}, gradient norm"
        f" {first['gradient_norm']}, learning rate {first['learning_rate']:.3g},"
        f" {first['precision']} on {first['device']}"
    )
    return lines + (f"\nfirst not finite in {broken}" if broken else "")


def table(outcomes: list[Outcome]) -> Table:
    """A row a cure."""
    shown = Table("the step", "loss", "gradient norm", "loss after it", "finite")
    for outcome in outcomes:
        norm = f"{outcome.gradient:.4g}"
        if outcome.clipped is not None and math.isfinite(outcome.gradient):
            norm += f", cut to {outcome.clipped:.4g}"
        finite = "yes" if outcome.finite else "no"
        shown.add_row(
            outcome.cure.name,
            f"{outcome.loss:.6g}",
            norm,
            f"{outcome.after:.6g}",
            finite,
        )
    return shown


def about_images(scene: ReplayedStep, worst: Worst) -> str:
    """The worst image by name, or that it is not one image's fault."""
    if worst.bad == worst.images:
        return (
            f"Each of the {worst.images} images has a loss that is not finite: it is"
            " not one image's fault."
        )
    others = f"; {worst.bad} of {worst.images} are not finite" if worst.bad else ""
    return f"Worst image: {scene.image(worst.sample)} (loss {worst.loss:.6g}{others})"


def verdict(record: Record, outcomes: list[Outcome]) -> str:
    """Which cures help, in a sentence."""
    as_recorded, *alone, together = outcomes
    if as_recorded.finite:
        return "The step is finite as it was recorded: there is nothing to cure in it."
    helping = [outcome.cure.name for outcome in alone if outcome.finite]
    if helping:
        return f"What helps: {'; '.join(helping)} (each alone)."
    if together.finite:
        return "What helps: nothing alone, but all together."
    if not record.first["finite"]["weights"]:
        grown = "the weights were not finite when the step began"
    else:
        name, largest = max(
            record.first["parameters"].items(), key=lambda item: float(item[1])
        )
        grown = f"the largest weight was {largest:.3g} ({name}) when the step began"
    return (
        f"What helps: nothing here; {grown}. Lower base_lr or lengthen warmup_epochs,"
        " or look at the images."
    )
