"""Tables for the terminal."""

import statistics
from typing import Any

from rich.markup import escape
from rich.table import Table

Result = dict[str, Any]
SIDE_BY_SIDE = 6  # cells


def headline(result: Result) -> tuple[str, str]:
    """The number a stage is about, with its unit."""
    metrics = result["metrics"]
    if "val/accuracy" in metrics:
        return f"{metrics['val/accuracy']:.1f}", "% top-1"
    if "hold_most" in metrics:
        return (
            f"{metrics['hold_most']}",
            f"of {metrics['coefficients']:.0f} coefficients hold 90 % of the variance",
        )
    return f"{metrics['val/loss']:.4f}", "validation loss"


def results_table(results: list[Result]) -> Table:
    """One row a stage: title, number, unit, seconds, fingerprint."""
    table = Table(title="Results", title_justify="left")
    table.add_column("stage")
    table.add_column("result", justify="right")
    table.add_column("")
    table.add_column("images", justify="right")
    table.add_column("seconds", justify="right")
    table.add_column("fingerprint", style="dim", no_wrap=True)
    for result in results:
        number, unit = headline(result)
        table.add_row(
            result["title"],
            number,
            unit,
            f"{result['images']:,}",
            f"{result['seconds']:.0f}",
            result["fingerprint"],
        )
    return table


Cell = tuple[list[str], str, list[Result]]  # overrides, state, what its stages gave


def cells_table(cells: list[Cell]) -> Table:
    """A column a cell of a sweep, a row a measurement; mean and spread where the cells differ in the seed alone.

    More cells than a screen has room for become rows.
    """
    common = (
        set.intersection(*(set(overrides) for overrides, _, _ in cells))
        if len(cells) > 1
        else set()
    )
    own = [
        [override for override in overrides if override not in common]
        for overrides, _, _ in cells
    ]
    numbers = [
        {result["title"]: headline(result) for result in stages}
        for _, _, stages in cells
    ]
    states = [state for _, state, _ in cells]
    if len(cells) > SIDE_BY_SIDE:
        return _long_table(own, states, numbers)
    over_seeds = len(cells) > 1 and all(
        len(o) == 1 and o[0].startswith("seed=") for o in own
    )
    table = Table(title="Cells", title_justify="left")
    table.add_column("")
    for overrides in own:
        table.add_column(escape("\n".join(overrides)), justify="right", overflow="fold")
    if over_seeds:
        table.add_column("mean +- s.d.", justify="right")
    table.add_row(
        "state", *states, *([f"n = {sum(map(bool, numbers))}"] if over_seeds else [])
    )
    for title in dict.fromkeys(title for cell in numbers for title in cell):
        found = [cell[title] for cell in numbers if title in cell]
        row = [cell[title][0] if title in cell else "-" for cell in numbers]
        table.add_row(
            f"{title}, {found[0][1]}",
            *row,
            *([spread([number for number, _ in found])] if over_seeds else []),
        )
    return table


def _long_table(
    own: list[list[str]], states: list[str], numbers: list[dict[str, tuple[str, str]]]
) -> Table:
    """A row a cell, a column a measurement."""
    table = Table(title="Cells", title_justify="left")
    table.add_column("")
    table.add_column("state")
    units = {title: unit for cell in numbers for title, (_, unit) in cell.items()}
    for title, unit in units.items():
        table.add_column(f"{title}, {unit}", justify="right")
    for overrides, state, cell in zip(own, states, numbers, strict=True):
        values = [cell[title][0] if title in cell else "-" for title in units]
        table.add_row(escape(" ".join(overrides)), state, *values)
    return table


def spread(numbers: list[str]) -> str:
    """Mean and sample standard deviation, to the decimals the numbers have."""
    if len(numbers) < 2:
        return numbers[0]
    values, decimals = (
        [float(number) for number in numbers],
        len(numbers[0].partition(".")[2]),
    )
    return (
        f"{statistics.mean(values):.{decimals}f} +-"
        f" {statistics.stdev(values):.{decimals}f}"
    )
