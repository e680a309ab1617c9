"""Tables of one training step of each model: FLOPs, memory and measured speed."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.table import Table

from unmask.commands.plan.price_types import TrainingStep
from unmask.commands.plan.speed import MeasuredSpeed
from unmask.commands.units import (
    MIB,
    format_memory,
    format_number,
    format_small,
)
from unmask.config.hardware import GIB, Hardware
from unmask.config.recipes import stage_name

# characters: of the names of rows, and of a model's column
NAMES_WIDTH = 30
MODEL_WIDTH = 18
MAX_COLUMNS = 4
MEGA = 1e6
GIGA = 1e9


def step_tables(
    steps: list[TrainingStep], hardware: Hardware, width: int
) -> Iterator[Table]:
    """Yield tables with a column for each model, as many side by side as fit.

    width: characters of the terminal.
    """
    columns = min(MAX_COLUMNS, max(1, (width - NAMES_WIDTH) // MODEL_WIDTH))
    for i in range(0, len(steps), columns):
        yield _step_table(steps[i : i + columns], hardware, is_first=i == 0)


def _step_table(steps: list[TrainingStep], hardware: Hardware, is_first: bool) -> Table:
    table = Table(
        title="One training step of each model" if is_first else None,
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("", no_wrap=True)
    for step in steps:
        # one line each: columns are narrow
        header = [stage_name(step.kind), step.model]
        if step.decoder:
            header.append(f"decoder {step.decoder}")
        table.add_column("\n".join(header), justify="right", overflow="fold")
    for name, row in _model_rows(steps).items():
        table.add_row(name, *row)
    table.add_section()
    _add_memory(table, steps)
    if hardware.memory_gib is not None:
        memory_gib = hardware.memory_gib
        table.add_section()
        table.add_row(
            f"micro_batch on {memory_gib:.3g} GiB",
            *(_format_micro_batch(step, memory_gib) for step in steps),
            style="bold",
        )
    return table


def _model_rows(steps: list[TrainingStep]) -> dict[str, list[str]]:
    costs = [step.per_image for step in steps]
    # one unit for the whole table, so that columns can be compared
    is_large = max(cost.training for cost in costs) >= GIGA
    unit, word = (GIGA, "GFLOP") if is_large else (MEGA, "MFLOP")
    return {
        "encoder's width": [str(step.width) for step in steps],
        "parameters, millions": [
            format_number(cost.parameters / MEGA) for cost in costs
        ],
        f"encoder, {word} an image": [
            format_small(cost.encoder / unit) for cost in costs
        ],
        f"decoder or head, {word}": [
            format_small(cost.after_encoder / unit) for cost in costs
        ],
        f"forward + backward, {word}": [
            format_small(cost.training / unit) for cost in costs
        ],
        "images a device": [f"{step.device_batch:,}" for step in steps],
    }


def _add_memory(table: Table, steps: list[TrainingStep]) -> None:
    """Add the memory of a step: a row for each part that any model has, and the sum."""
    # parts are counted for the batch of the recipe, not for a micro-batch
    columns = [step.memory.parts(step.device_batch) for step in steps]
    totals = [sum(parts.values()) for parts in columns]
    unit, word = (GIB, "GiB") if max(totals) >= GIB else (MIB, "MiB")
    for name in columns[0]:
        if any(parts[name] for parts in columns):
            values = [format_memory(parts[name], unit) for parts in columns]
            table.add_row(f"{name}, {word}", *values)
    table.add_row(
        f"in all, {word}",
        *(format_memory(total, unit) for total in totals),
        style="bold",
    )


def _format_micro_batch(step: TrainingStep, memory_gib: float) -> str:
    largest = step.micro_batch(memory_gib)
    if not largest:
        return "none fits"
    return f"{largest:,} (all)" if largest == step.device_batch else f"{largest:,}"


def measured_table(
    steps: list[TrainingStep], speeds: list[MeasuredSpeed | None]
) -> Table:
    """Return the measured pretraining steps beside the slowest one, as in Table 2."""
    table = Table(
        "model",
        "decoder",
        "images/s",
        "times the slowest",
        "by FLOPs alone",
        box=SIMPLE_HEAD,
        title="Measured here, in turn",
        title_justify="left",
    )
    for column in table.columns[2:]:
        column.justify = "right"
    # models that are too big have no speed
    measured = [
        (step, speed) for step, speed in zip(steps, speeds, strict=True) if speed
    ]
    slowest = min(speed.images_per_second for _, speed in measured)
    most_flops = max(step.per_image.training for step, _ in measured)
    for step, speed in measured:
        table.add_row(
            f"{step.model}, {step.width} wide",
            step.decoder,
            f"{speed.images_per_second:,.0f}",
            f"{speed.images_per_second / slowest:.2f}",
            f"{most_flops / step.per_image.training:.2f}",
        )
    return table
