"""The sources of variance as a table in the terminal, and as a CSV file."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

from unmask.reports.paper.components import Component
from unmask.reports.paper.variance import Source, Variances
from unmask.storage.atomic import write_text

NO_VALUE = "-"
LEGEND = (
    "Standard deviations in points of accuracy, with 95 % intervals: of seeds by"
    " chi-squared, as if they were normal and rows alike; of a difference of two by the"
    " modified large-sample method; of images by resampling them.",
    "Seeds of a row are measured on the same test images: their spread also has the"
    " part in which two seeds err on different images, which no runs on one split can"
    " part from the rest. Initialisation, order, crops and masks share one seed, too.",
)


def variance_tables(variances: Iterable[Variances]) -> Group:
    """Draw a table for each measure at each scale, and how to read them."""
    tables = [_terminal_table(each) for each in variances]
    return Group(*tables, *map(Text, LEGEND))


@dataclass(frozen=True)
class VarianceTable:
    """The sources of variance of one measure, as text: name, s.d., interval, df, from.

    unknown: sentences on what cannot be told yet, with what would tell it.
    """

    title: str
    rows: list[tuple[str, str, str, str, str]]
    unknown: list[str]


def variance_table(variances: Variances) -> VarianceTable:
    """Return the text of the cells, for the terminal and for the page."""
    return VarianceTable(
        f"{variances.measure} at scale {variances.scale}: where variance is from",
        [(s.name, *_numbers(s.component), s.seen_in) for s in variances.sources],
        list(_unknown(variances.sources)),
    )


def _terminal_table(variances: Variances) -> Group:
    text = variance_table(variances)
    table = Table(
        "source",
        Column("s.d.", justify="right", no_wrap=True),
        Column("95 % interval", justify="right", no_wrap=True),
        Column("df", justify="right"),
        "from",
        title=text.title,
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for row in text.rows:
        table.add_row(*row)
    return Group(table, *map(Text, text.unknown))


def _numbers(component: Component | None) -> tuple[str, str, str]:
    if component is None:
        return NO_VALUE, NO_VALUE, NO_VALUE
    interval = NO_VALUE
    if not math.isnan(component.low):
        interval = f"{_root(component.low):.2f} to {_root(component.high):.2f}"
    df = NO_VALUE if math.isnan(component.df) else f"{component.df:,.0f}"
    return f"{_root(component.variance):.2f}", interval, df


def _root(variance: float) -> float:
    return math.sqrt(variance) if not math.isnan(variance) else math.nan


def _unknown(sources: Sequence[Source]) -> Iterator[str]:
    """Yield what cannot be told yet, each with what would tell it."""
    remedies: dict[str, list[str]] = {}
    for source in sources:
        if source.component is None and source.remedy:
            remedies.setdefault(source.remedy, []).append(source.name)
    for remedy, names in remedies.items():
        yield f"Not known: {'; '.join(names)}. It takes {remedy}."


def write_variances(variances: Iterable[Variances], path: Path) -> None:
    """Write a line for each source, with standard deviations in points."""
    rows = []
    for each in variances:
        for source in each.sources:
            nothing = Component(*[math.nan] * 4)
            numbers = source.component or nothing
            rows.append(
                {
                    "scale": each.scale,
                    "measure": each.measure,
                    "source": source.name,
                    "sd": _root(numbers.variance),
                    "low": _root(numbers.low),
                    "high": _root(numbers.high),
                    "df": numbers.df,
                    "from": source.seen_in,
                }
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, pd.DataFrame(rows).to_csv(index=False, float_format="%.6g"))
