"""Tables for the terminal."""

from typing import Any

from rich.markup import escape
from rich.table import Table

Result = dict[str, Any]


def headline(result: Result) -> tuple[str, str]:
    """The number a stage is about, with its unit."""
    metrics = result["metrics"]
    if "val/accuracy" in metrics:
        return f"{metrics['val/accuracy']:.1f}", "% top-1"
    return f"{metrics['val/loss']:.4f}", "validation loss"


def results_table(results: list[Result]) -> Table:
    """One row a stage: title, number, unit, seconds, fingerprint."""
    table = Table(title="Results", title_justify="left")
    table.add_column("stage")
    table.add_column("result", justify="right")
    table.add_column("")
    table.add_column("seconds", justify="right")
    table.add_column("fingerprint", style="dim", no_wrap=True)
    for result in results:
        number, unit = headline(result)
        table.add_row(result["title"], number, unit, f"{result['seconds']:.0f}", result["fingerprint"])
    return table


def cells_table(cells: list[tuple[list[str], str, list[Result]]]) -> Table:
    """One row a cell of a sweep: what sets it apart, its state and its measurements (controls left out)."""
    common = set.intersection(*(set(overrides) for overrides, _, _ in cells)) if len(cells) > 1 else set()
    titles = list(dict.fromkeys(r["title"] for _, _, stages in cells for r in stages if r["start"] != "pixels"))
    titles = [title for title in titles if "random encoder" not in title]
    table = Table(title="Cells", title_justify="left")
    table.add_column("cell")
    table.add_column("state")
    for title in titles:
        table.add_column(title, justify="right")
    for overrides, state, stages in cells:
        numbers = {result["title"]: headline(result)[0] for result in stages}
        own = " ".join(override for override in overrides if override not in common)
        table.add_row(escape(own), state, *(numbers.get(title, "-") for title in titles))
    return table
