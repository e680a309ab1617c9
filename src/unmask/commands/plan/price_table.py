"""The price table: what runs cost, by stage or by experiment."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from unmask.commands.plan.price_types import (
    Cell,
    StagePrice,
    Total,
    sum_prices,
    unique_stages,
)
from unmask.commands.units import (
    UNKNOWN,
    count_noun,
    format_disk,
    format_duration,
    format_flops,
    format_hours,
    format_images,
)
from unmask.config.hardware import Hardware
from unmask.config.recipes import STAGES, stage_name


def price_table(cells: list[Cell], hardware: Hardware) -> Table:
    """Return a row for each kind of stage, or for each experiment where there are many.

    Stages that cells share are counted once.
    """
    stages = unique_stages(cells)
    groups = list(dict.fromkeys(cell.group for cell in cells))
    if len(groups) > 1:
        table = _empty_table(cells, hardware, ["experiment", "cells", "pre-\ntrained"])
        for group in groups:
            _add_experiment(table, group, cells, hardware)
        table.add_section()
        title = "all, shared ones once"
        counts = [f"{len(cells)}", f"{_num_pretrainings(stages)}"]
    else:
        table = _empty_table(cells, hardware, ["stage", "runs", "epochs"])
        for title, group_stages in _by_title(stages).items():
            _add_stages(table, title, group_stages, cells, hardware)
        table.add_section()
        title = "all"
        counts = [f"{len(stages)}", ""]
    numbers = _numbers(sum_prices(stages, hardware), hardware)
    table.add_row(title, *counts, *numbers, style="bold")
    return table


def _empty_table(cells: list[Cell], hardware: Hardware, columns: list[str]) -> Table:
    table = Table(
        title=f"Price on {hardware.name}",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption=_sharing(cells),
        caption_justify="left",
    )
    # in a narrow terminal names are folded, and numbers never
    table.add_column(columns[0], overflow="fold", min_width=12)
    is_gpu = not hardware.needs_measuring and "CPU" not in hardware.name
    device = "GPU" if is_gpu else "device"
    numbers = ["images", "FLOPs", "time", f"{device}-\nhours", "disk"]
    for name in [*columns[1:], *numbers]:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _add_experiment(
    table: Table, group: str, cells: list[Cell], hardware: Hardware
) -> None:
    group_cells = [cell for cell in cells if cell.group == group]
    stages = unique_stages(group_cells)
    table.add_row(
        group,
        f"{len(group_cells)}",
        f"{_num_pretrainings(stages)}",
        *_numbers(sum_prices(stages, hardware), hardware),
    )


def _add_stages(
    table: Table,
    title: str,
    stages: list[StagePrice],
    cells: list[Cell],
    hardware: Hardware,
) -> None:
    numbers = _numbers(sum_prices(stages, hardware), hardware)
    # None: a kind of stage that is not priced
    if stages[0].per_image is None:
        numbers = [UNKNOWN] * len(numbers)
    table.add_row(title, f"{len(stages)}", _epochs(stages, cells), *numbers)


def _numbers(total: Total, hardware: Hardware) -> list[str]:
    device_seconds = None
    if total.seconds is not None:
        # what a cluster charges: hours of each device, added up
        device_seconds = total.seconds * hardware.devices
    return [
        format_images(total.trained + total.evaluated),
        format_flops(total.flops),
        format_duration(total.seconds),
        format_hours(device_seconds),
        format_disk(total.disk_bytes),
    ]


def _by_title(stages: list[StagePrice]) -> dict[str, list[StagePrice]]:
    """Group stages by kind, in the order of a run; controls have rows of their own."""
    # dicts keep the order of insertion
    by_title: dict[str, list[StagePrice]] = {}
    for stage in stages:
        kind = stage.spec.kind
        title = stage_name(kind)
        if kind == "partial_finetune":
            title += ", last blocks"
        if stage.spec.start in STAGES[kind].controls:
            title += ", controls"
        by_title.setdefault(title, []).append(stage)
    return by_title


def _epochs(stages: list[StagePrice], cells: list[Cell]) -> str:
    """Return the epochs of a kind of stage; several where the cells differ."""
    kind = stages[0].spec.kind
    epochs = set()
    for cell in cells:
        if any(price.spec.kind == kind for price in cell.prices):
            # kNN has no epochs, and robustness no recipe of that name
            epochs.add(getattr(getattr(cell.config, kind, None), "epochs", 0))
    if not any(epochs):
        return ""
    counts = [f"{count:,}" for count in sorted(epochs)]
    return ", ".join(counts) if len(counts) <= 3 else f"{counts[0]} to {counts[-1]}"


def _num_pretrainings(stages: list[StagePrice]) -> int:
    return sum(stage.spec.kind == "pretrain" for stage in stages)


def _sharing(cells: list[Cell]) -> str:
    """Return the caption: how many stages there are, and how many are shared."""
    stages = unique_stages(cells)
    # each cell prices all its stages, also those that it shares
    shared = sum(len(cell.prices) for cell in cells) - len(stages)
    not_again = ""
    if shared:
        not_again = f"; {shared} that another cell makes are not counted again"
    return (
        f"{count_noun(len(cells), 'cell')},"
        f" {count_noun(_num_pretrainings(stages), 'pretraining')},"
        f" {count_noun(len(stages), 'stage')} in all{not_again}"
    )
