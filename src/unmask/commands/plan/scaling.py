"""A table of training steps on 8, 64 and 256 devices that share a batch."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from unmask.commands.plan.price_types import TrainingStep
from unmask.commands.plan.waiting import step_seconds
from unmask.config.hardware import Hardware
from unmask.config.recipes import stage_name

SCALES = (8, 64, 256)


def scaling_table(steps: list[TrainingStep], hardware: Hardware) -> Table:
    """Return the first model of each stage on 8, 64 and 256 devices."""
    table = Table(
        *("stage", "model", "devices", "images a device", "a step, s", "images/s"),
        "waiting",
        title="The same batch on more devices",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for column in table.columns[2:]:
        column.justify = "right"
    firsts = {step.kind: step for step in reversed(steps)}
    for step in reversed(firsts.values()):
        for devices in SCALES:
            if devices > step.batch:
                continue
            scaled = hardware.model_copy(update={"devices": devices})
            # the device with most images is waited for
            images = -(-step.batch // devices)
            seconds, waiting = step_seconds(
                step.per_image, images, step.precision, scaled
            )
            table.add_row(
                stage_name(step.kind),
                step.model,
                str(devices),
                f"{images:,}",
                f"{seconds:.3g}",
                f"{step.batch / seconds:,.0f}",
                f"{waiting / seconds:.1%}",
            )
        table.add_section()
    return table
