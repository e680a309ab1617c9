"""Prices for the terminal: what the runs cost, what a training step of each model takes, and what is assumed."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.table import Table

from unmask.commands.plan.cost import (
    PRICED,
    Cell,
    StagePrice,
    Step,
    Total,
    total,
    unique,
)
from unmask.commands.plan.hardware import GIB, PRECISIONS, Hardware, Precision
from unmask.commands.plan.memory import FREE
from unmask.commands.plan.probe import Probe
from unmask.stages.fingerprint import kind_title
from unmask.stages.plan import CONTROLS

HOUR, MINUTE = 3600, 60
# characters of a step table: its row names, and a model's column
NAMES_WIDTH, MODEL_WIDTH = 30, 18
UNKNOWN, NONE = "?", "-"
MEGA, GIGA = 1e6, 1e9
MIB = 2**20
WIDE = 768  # ViT-B's; narrower models keep no large device busy


def duration(seconds: float | None) -> str:
    """In the unit that reads best."""
    if not seconds:
        return UNKNOWN if seconds is None else NONE
    for unit, size in (("h", HOUR), ("min", MINUTE)):
        if seconds >= 2 * size:
            return f"{_digits(seconds / size)} {unit}"
    return "< 1 s" if seconds < 1 else f"{seconds:.0f} s"


def hours(seconds: float | None) -> str:
    if not seconds:
        return UNKNOWN if seconds is None else NONE
    value = seconds / HOUR
    return (
        "< 0.01" if value < 0.01 else _digits(value) if value >= 1 else f"{value:.2f}"
    )


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def scaled(value: float, powers: tuple[tuple[float, str], ...]) -> str:
    """Three digits and a word or prefix."""
    for power, word in powers:
        if value >= power:
            return (
                f"{value / power:.3g} {word}"
                if value < 999.5 * power
                else f"{value / power:,.0f} {word}"
            )
    return f"{value:.0f}"


def flops(value: float) -> str:
    powers = (
        (1e18, "EFLOP"),
        (1e15, "PFLOP"),
        (1e12, "TFLOP"),
        (1e9, "GFLOP"),
        (1e6, "MFLOP"),
    )
    return scaled(value, powers) if value else NONE


def images(value: float) -> str:
    return scaled(value, ((1e9, "bn"), (1e6, "M"))) if value >= 1e6 else f"{value:,.0f}"


def size(value: float) -> str:
    return (
        scaled(value, ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")))
        if value
        else NONE
    )


def price_table(cells: list[Cell], hardware: Hardware) -> Table:
    """A row a kind of stage, or a row an experiment where there are several; what is shared is counted once."""
    stages = unique(cells)
    groups = list(dict.fromkeys(cell.group for cell in cells))
    table = Table(
        title=f"Price on {hardware.name}",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption=_sharing(cells, stages),
        caption_justify="left",
    )
    several = len(groups) > 1
    # gives way to the numbers
    table.add_column(
        "experiment" if several else "stage", overflow="fold", min_width=12
    )
    names = ["cells", "pre-\ntrained"] if several else ["runs", "epochs"]
    device = "device" if hardware.measured or "CPU" in hardware.name else "GPU"
    for name in (*names, "images", "FLOPs", "time", f"{device}-\nhours", "disk"):
        table.add_column(name, justify="right", no_wrap=True)
    if several:
        for group in groups:
            own = [cell for cell in cells if cell.group == group]
            found = unique(own)
            table.add_row(
                group,
                f"{len(own)}",
                f"{_pretrainings(found)}",
                *_numbers(total(found, hardware), hardware),
            )
    else:
        for title, found in _by_title(stages).items():
            row = _numbers(total(found, hardware), hardware)
            if found[0].per_image is None:
                row = [UNKNOWN] * len(row)
            table.add_row(title, f"{len(found)}", _epochs(found, cells), *row)
    table.add_section()
    whole = _numbers(total(stages, hardware), hardware)
    first = (
        [f"{len(cells)}", f"{_pretrainings(stages)}"]
        if several
        else [f"{len(stages)}", ""]
    )
    table.add_row(
        "all, shared ones once" if several else "all", *first, *whole, style="bold"
    )
    return table


def _numbers(sums: Total, hardware: Hardware) -> list[str]:
    device_seconds = None if sums.seconds is None else sums.seconds * hardware.devices
    return [
        images(sums.trained + sums.looked_at),
        flops(sums.flops),
        duration(sums.seconds),
        hours(device_seconds),
        size(sums.disk),
    ]


def _by_title(stages: list[StagePrice]) -> dict[str, list[StagePrice]]:
    """In the order of a run; measurements on a random encoder and on raw pixels together."""
    found: dict[str, list[StagePrice]] = {}
    for stage in stages:
        kind, start = stage.spec.kind, stage.spec.start
        control = kind in CONTROLS and start in ("random", "pixels")
        title = kind_title(kind)
        title += ", last blocks" if kind == "partial_finetune" else ""
        found.setdefault(title + (", controls" if control else ""), []).append(stage)
    return found


def _epochs(stages: list[StagePrice], cells: list[Cell]) -> str:
    """Of the recipe; several where the cells differ."""
    kind = stages[0].spec.kind
    made = [
        cell for cell in cells if any(price.spec.kind == kind for price in cell.prices)
    ]
    counts = sorted(
        {getattr(getattr(cell.config, kind, None), "epochs", 0) for cell in made}
    )
    return (
        ", ".join(f"{count:,}" for count in counts)
        if any(counts) and len(counts) <= 3
        else (f"{counts[0]:,} to {counts[-1]:,}" if any(counts) else "")
    )


def _pretrainings(stages: list[StagePrice]) -> int:
    return sum(stage.spec.kind == "pretrain" for stage in stages)


def _sharing(cells: list[Cell], stages: list[StagePrice]) -> str:
    asked = sum(len(cell.prices) for cell in cells)
    once = (
        f"; {asked - len(stages)} that another cell makes are not counted again"
        if asked > len(stages)
        else ""
    )
    return (
        f"{_many(len(cells), 'cell')}, {_many(_pretrainings(stages), 'pretraining')}, "
        f"{_many(len(stages), 'stage')} in all{once}"
    )


def _many(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def step_tables(steps: list[Step], hardware: Hardware, width: int) -> Iterator[Table]:
    """What one training step takes: a column a model, as many side by side as fit in so many characters, at most 4."""
    columns = min(4, max(1, (width - NAMES_WIDTH) // MODEL_WIDTH))
    for i in range(0, len(steps), columns):
        yield _step_table(steps[i : i + columns], hardware, first=i == 0)


def _step_table(steps: list[Step], hardware: Hardware, first: bool) -> Table:
    table = Table(
        title="One training step of each model" if first else None,
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("", no_wrap=True)
    for step in steps:
        head = [kind_title(step.kind), step.model]
        named = "\n".join(
            [*head, *([f"decoder {step.decoder}"] if step.decoder else [])]
        )
        table.add_column(named, justify="right", overflow="fold")
    for name, row in _facts(steps).items():
        table.add_row(name, *row)
    table.add_section()
    parts = [step.memory.parts(step.batch) for step in steps]
    unit, word = (
        (GIB, "GiB")
        if max(sum(part.values()) for part in parts) >= GIB
        else (MIB, "MiB")
    )
    for name in parts[0]:
        if any(part[name] for part in parts):
            table.add_row(
                f"{name}, {word}", *(_bytes(part[name], unit) for part in parts)
            )
    table.add_row(
        f"in all, {word}",
        *(_bytes(sum(part.values()), unit) for part in parts),
        style="bold",
    )
    if hardware.memory_gib is not None:
        memory = hardware.memory_gib
        table.add_section()
        table.add_row(
            f"micro_batch on {memory:.3g} GiB",
            *(_fits(step, memory) for step in steps),
            style="bold",
        )
    return table


def measured_table(steps: list[Step], found: list[Probe | None]) -> Table:
    """Pretraining steps that were measured in turn: speed, and how many times the slowest's that is (Table 2)."""
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
    measured = [(step, own) for step, own in zip(steps, found, strict=True) if own]
    slowest = min(own.images_per_second for _, own in measured)
    costliest = max(step.per_image.training for step, _ in measured)
    for step, own in measured:
        times, by_flops = (
            own.images_per_second / slowest,
            costliest / step.per_image.training,
        )
        numbers = f"{own.images_per_second:,.0f}", f"{times:.2f}", f"{by_flops:.2f}"
        table.add_row(f"{step.model}, {step.width} wide", step.decoder, *numbers)
    return table


def _facts(steps: list[Step]) -> dict[str, list[str]]:
    costs = [step.per_image for step in steps]
    unit, word = (
        (GIGA, "GFLOP")
        if max(cost.training for cost in costs) >= GIGA
        else (MEGA, "MFLOP")
    )
    return {
        "encoder's width": [str(step.width) for step in steps],
        "parameters, millions": [_digits(cost.parameters / MEGA) for cost in costs],
        f"encoder, {word} an image": [_short(cost.encoder / unit) for cost in costs],
        f"decoder or head, {word}": [_short(cost.after / unit) for cost in costs],
        f"forward + backward, {word}": [_short(cost.training / unit) for cost in costs],
        "images a device": [f"{step.batch:,}" for step in steps],
    }


def _short(value: float) -> str:
    return (
        f"{value:,.0f}"
        if value >= 1000
        else f"{value:.3g}"
        if value >= 0.01
        else "< 0.01"
    )


def _bytes(value: float, unit: int) -> str:
    if not value:
        return NONE
    return (
        f"{value / unit:,.1f}"
        if value >= 10 * unit
        else f"{value / unit:.2f}"
        if value >= 0.01 * unit
        else "< 0.01"
    )


def _fits(step: Step, memory_gib: float) -> str:
    """The whole of a device's batch, or the largest part of it."""
    largest = step.micro_batch(memory_gib)
    if not largest:
        return "none fits"
    return f"{largest:,} (all)" if largest == step.batch else f"{largest:,}"


def assumptions(cells: list[Cell], hardware: Hardware) -> list[str]:
    """What the numbers rest on, in sentences."""
    precisions = sorted({cell.config.trainer.precision for cell in cells})
    named = " and ".join(PRECISIONS[p] for p in precisions)
    told = [*_speed(hardware, precisions)]
    if not hardware.source.startswith("measured") and any(
        cell.config.model.width < WIDE for cell in cells
    ):
        told.append(
            "Models narrower than ViT-B do not keep such devices busy: they take longer"
            " than this."
        )
    told.append(
        "FLOPs are those of matrix products, counted on the modules. The devices are"
        " taken to be busy all the time: loaders that do not keep up add to it."
    )
    told.append(
        f"Memory is for {named} with fused attention, and {100 * FREE:.0f} % of a"
        " device is left free. Disk is what finished stages leave; while one trains,"
        " checkpoint.keep + 1 of its checkpoints may be there."
    )
    if any(cell.config.trainer.sharded for cell in cells):
        told.append(
            "Memory is that of a whole copy on each device; a share of the model"
            " (trainer.sharded=true) takes less: docs/several.md."
        )
    if missing := sorted(
        {
            p.spec.title
            for cell in cells
            for p in cell.prices
            if p.spec.kind not in PRICED
        }
    ):
        told.append(f"Not counted: {', '.join(missing)}.")
    if any(not cell.config.target.target_.endswith("Pixel") for cell in cells):
        told.append(
            "What a target computes of the images (a dVAE's tokens, gradients,"
            " coefficients) is not counted."
        )
    if hardware.devices > 1:
        told.append(
            f"Hours are of {hardware.devices} devices that share each batch"
            f" (trainer.devices={hardware.devices}); what they tell each other is not"
            " counted."
        )
    if (
        precisions == ["32-true"]
        and hardware.tflops
        and hardware.tflops["bf16-mixed"] > hardware.tflops["32-true"]
    ):
        told.append(
            "trainer=gpu would train in bf16-mixed, which these devices are made for."
        )
    return told


def _speed(hardware: Hardware, precisions: list[Precision]) -> Iterator[str]:
    if hardware.tflops is None or hardware.utilisation is None:
        return
    if hardware.source.startswith("measured"):
        yield (
            f"{hardware.name}, {hardware.source}; every stage is taken to reach the"
            " same FLOP/s."
        )
        return
    reached = [
        f"{100 * share:.3g} % of {hardware.tflops[p]:g} TFLOP/s in {PRECISIONS[p]}"
        for p, share in hardware.utilisation.items()
        if p in precisions
    ]
    yield f"Each device reaches {' and '.join(reached)}: {hardware.source}."
