"""Tables for the terminal: the results of a run, and the cells of a sweep."""

import statistics
from typing import Any

from rich.markup import escape
from rich.table import Table

# a stage's result.json
Result = dict[str, Any]
# overrides, state, and the results of its stages
SweepCell = tuple[list[str], str, list[Result]]
# (number, unit) of each stage, by its title
Numbers = dict[str, tuple[str, str]]

# A terminal has room for so many cells as columns; more cells become rows.
MAX_CELL_COLUMNS = 6
NO_VALUE = "-"


def main_metric(result: Result) -> tuple[str, str]:
    """Return the number that a stage is about, and its unit."""
    metrics = result["metrics"]
    if "val/accuracy" in metrics:
        return f"{metrics['val/accuracy']:.1f}", "% top-1"
    if "hold_most" in metrics:
        unit = (
            f"of {metrics['coefficients']:.0f} coefficients hold 90 % of the variance"
        )
        return f"{metrics['hold_most']}", unit
    return f"{metrics['val/loss']:.4f}", "validation loss"


def results_table(results: list[Result]) -> Table:
    """Draw one row for each stage of a run."""
    table = Table(title="Results", title_justify="left")
    table.add_column("stage")
    table.add_column("result", justify="right")
    table.add_column("")
    table.add_column("images", justify="right")
    table.add_column("seconds", justify="right")
    table.add_column("fingerprint", style="dim", no_wrap=True)
    for result in results:
        number, unit = main_metric(result)
        table.add_row(
            result["title"],
            number,
            unit,
            f"{result['images']:,}",
            f"{result['seconds']:.0f}",
            result["fingerprint"],
        )
    return table


def cells_table(cells: list[SweepCell]) -> Table:
    """Draw the cells of a sweep as columns, or as rows where there are many.

    Cells that differ in the seed alone get a column of mean and standard deviation.
    """
    varied = _varied_overrides([overrides for overrides, _, _ in cells])
    states = [state for _, state, _ in cells]
    numbers = [
        {result["title"]: main_metric(result) for result in results}
        for _, _, results in cells
    ]
    if len(cells) > MAX_CELL_COLUMNS:
        return _table_of_rows(varied, states, numbers)
    return _table_of_columns(varied, states, numbers)


def _varied_overrides(cells: list[list[str]]) -> list[list[str]]:
    """Return each cell's overrides without those that all cells share."""
    if len(cells) < 2:
        return cells
    shared = set.intersection(*map(set, cells))
    return [[o for o in overrides if o not in shared] for overrides in cells]


def _table_of_columns(
    varied: list[list[str]], states: list[str], numbers: list[Numbers]
) -> Table:
    only_seeds = len(varied) > 1 and all(
        len(overrides) == 1 and overrides[0].startswith("seed=") for overrides in varied
    )
    table = Table(title="Cells", title_justify="left")
    table.add_column("")
    for overrides in varied:
        table.add_column(escape("\n".join(overrides)), justify="right", overflow="fold")
    state_row = ["state", *states]
    if only_seeds:
        table.add_column("mean +- s.d.", justify="right")
        num_finished = sum(bool(cell) for cell in numbers)
        state_row.append(f"n = {num_finished}")
    table.add_row(*state_row)

    for title in dict.fromkeys(title for cell in numbers for title in cell):
        known = [cell[title] for cell in numbers if title in cell]
        unit = known[0][1]
        row = [f"{title}, {unit}"]
        row += [cell[title][0] if title in cell else NO_VALUE for cell in numbers]
        if only_seeds:
            row.append(mean_and_spread([number for number, _ in known]))
        table.add_row(*row)
    return table


def _table_of_rows(
    varied: list[list[str]], states: list[str], numbers: list[Numbers]
) -> Table:
    table = Table(title="Cells", title_justify="left")
    table.add_column("")
    table.add_column("state")
    units = {title: unit for cell in numbers for title, (_, unit) in cell.items()}
    for title, unit in units.items():
        table.add_column(f"{title}, {unit}", justify="right")
    for overrides, state, cell in zip(varied, states, numbers, strict=True):
        values = [cell[title][0] if title in cell else NO_VALUE for title in units]
        table.add_row(escape(" ".join(overrides)), state, *values)
    return table


def mean_and_spread(numbers: list[str]) -> str:
    """Return mean and sample standard deviation with the decimals of the numbers."""
    if len(numbers) < 2:
        return numbers[0]
    values = [float(number) for number in numbers]
    decimals = len(numbers[0].partition(".")[2])
    mean = statistics.mean(values)
    std = statistics.stdev(values)
    return f"{mean:.{decimals}f} +- {std:.{decimals}f}"
