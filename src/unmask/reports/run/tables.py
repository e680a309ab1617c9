"""Tables for the terminal: the results of a run, and the cells of a sweep."""

import statistics

from rich.console import Group
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from unmask.stages.convergence import CONVERGED, HEAD_GRADIENT, MAX_HEAD_GRADIENT
from unmask.stages.measures import Result, main_measure

# overrides, state, and the results of its stages
SweepCell = tuple[list[str], str, list[Result]]

# A terminal has room for so many cells as columns; more cells become rows.
MAX_CELL_COLUMNS = 6
NO_VALUE = "-"


def main_metric(result: Result) -> tuple[str, str]:
    """Return the number that a stage is about, and its unit."""
    measure = main_measure(result)
    if measure is None:
        return NO_VALUE, ""
    return measure.text, measure.unit


def results_table(results: list[Result]) -> Group:
    """Draw one row for each stage of a run, and below what a reader must know."""
    table = Table(
        "stage",
        Column("result", justify="right"),
        "",
        Column("images", justify="right"),
        Column("seconds", justify="right"),
        Column("fingerprint", style="dim", no_wrap=True),
        title="Results",
        title_justify="left",
    )
    for result in results:
        images = f"{result['images']:,}"
        seconds = f"{result['seconds']:.0f}"
        table.add_row(
            result["title"],
            *main_metric(result),
            images,
            seconds,
            result["fingerprint"],
        )
    warnings = [warning for result in results if (warning := unconverged(result))]
    return Group(table, *(Text(f"warning: {warning}") for warning in warnings))


def cells_table(cells: list[SweepCell]) -> Table:
    """Draw the cells of a sweep as columns, or as rows where there are many.

    Cells that differ in the seed alone get a column of mean and standard deviation.
    """
    varied = _varied_overrides([overrides for overrides, _, _ in cells])
    states = [state for _, state, _ in cells]
    numbers = [_numbers(results) for _, _, results in cells]
    heads = list(dict.fromkeys(head for cell in numbers for head in cell))
    table = Table("", title="Cells", title_justify="left")
    if len(cells) > MAX_CELL_COLUMNS:
        table.add_column("state")
        for head in heads:
            table.add_column(head, justify="right")
        for overrides, state, cell in zip(varied, states, numbers, strict=True):
            values = [cell.get(head, NO_VALUE) for head in heads]
            table.add_row(escape(" ".join(overrides)), state, *values)
        return table

    for overrides in varied:
        table.add_column(escape("\n".join(overrides)), justify="right", overflow="fold")
    only_seeds = len(varied) > 1 and all(
        len(overrides) == 1 and overrides[0].startswith("seed=") for overrides in varied
    )
    if only_seeds:
        table.add_column("mean +- s.d.", justify="right")
        states.append(f"n = {sum(map(bool, numbers))}")
    table.add_row("state", *states)
    for head in heads:
        row = [cell.get(head, NO_VALUE) for cell in numbers]
        if only_seeds:
            known = [cell[head] for cell in numbers if head in cell]
            row.append(mean_and_spread(known))
        table.add_row(head, *row)
    return table


def _numbers(results: list[Result]) -> dict[str, str]:
    """Return each stage's number by the stage's title and the number's unit."""
    numbers = {}
    for result in results:
        number, unit = main_metric(result)
        numbers[f"{result['title']}, {unit}"] = number
    return numbers


def _varied_overrides(cells: list[list[str]]) -> list[list[str]]:
    """Return each cell's overrides without those that all cells share."""
    if len(cells) < 2:
        return cells
    shared = set.intersection(*map(set, cells))
    return [[o for o in overrides if o not in shared] for overrides in cells]


def mean_and_spread(numbers: list[str]) -> str:
    """Return mean and sample standard deviation with the decimals of the numbers."""
    if len(numbers) < 2:
        return numbers[0]
    values = [float(number) for number in numbers]
    decimals = len(numbers[0].partition(".")[2])
    mean = statistics.mean(values)
    std = statistics.stdev(values)
    return f"{mean:.{decimals}f} +- {std:.{decimals}f}"


def unconverged(result: Result) -> str | None:
    """Say that a probe's head did not converge; None where it did, or has no number."""
    metrics = result["metrics"]
    if metrics.get(CONVERGED) != 0:
        return None
    if HEAD_GRADIENT not in metrics:
        return (
            f"{result['title']}: not converged after {metrics['iterations']:,.0f}"
            " iterations; raise linear_probe.max_iterations"
        )
    return (
        f"{result['title']}: not converged: the gradient of its head is still"
        f" {100 * metrics[HEAD_GRADIENT]:.1f} % of that of a head of zeros"
        f" ({100 * MAX_HEAD_GRADIENT:g} % or less counts as converged), so that its"
        " accuracy depends on base_lr and epochs; take linear_probe=exact, or more"
        " epochs"
    )
