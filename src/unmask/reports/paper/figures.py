"""The paper's figure with ours in it: fine-tuning above, linear probing below, the paper's axis left and ours right."""

import io
import re
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unmask.reports.paper.comparison import Comparison
from unmask.reports.run.figures import to_svg
from unmask.storage.atomic import replacing, write_text

WIDTH, HEIGHT = 4.8, 2.5  # inches, a panel
DOTS = 160
OURS, INK = ("#2f81f7", "#0f9d8a", "#a371f7"), "#24292f"
PAPER, PAPER_MARKS = ("#8c959f", "#b08800", "#bc4c00", "#8250df"), "sD^v"
PLACEHOLDER = "#010203"  # what becomes the page's own text colour
IDENTIFIED = re.compile(r'\bid="|href="#|url\(#')  # what comes before an identifier
# stages whose numbers share a panel of a curve
FINE_TUNED = ("finetune", "scratch", "partial_finetune")
NARROWEST = 1.0  # units that an axis spans at least: noise is not to look like a trend
CROWDED = 0.04  # share of the axis under which two tick labels would overlap
WRAP = 12  # characters


class Series(NamedTuple):
    """One line or one set of bars: a value for each row, None where there is none."""

    name: str
    unit: str
    values: list[float | None]
    spreads: list[float | None]
    ours: bool


def comparison_figure(content: Comparison) -> Figure | None:
    """None for what the paper prints as a table only, and where there is no number at all."""
    panels = [
        panel
        for panel in _panels(content)
        if any(v is not None for s in panel for v in s.values)
    ]
    if content.paper.form == "table" or not panels:
        return None
    figure = Figure((WIDTH, HEIGHT * len(panels) + 0.5), layout="constrained")
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for place, panel in zip(axes, panels, strict=True):
        _draw(place, panel, content)
    _rows_axis(axes[-1], content)
    figure.align_ylabels()
    return figure


def figure_svg(content: Comparison, themed: bool = False) -> str | None:
    """The <svg> element; `themed`: text and axes take the colour of the text around them."""
    with mpl.rc_context(_style(PLACEHOLDER if themed else INK)):
        figure = comparison_figure(content)
        svg = to_svg(figure) if figure else None
    if svg is None or not themed:
        return svg
    # it shares a page with others
    unique = IDENTIFIED.sub(rf"\g<0>{content.slug}-{content.scale}-", svg)
    return unique.replace(PLACEHOLDER, "currentColor")


def figure_png(content: Comparison) -> bytes | None:
    """On white; the same bytes for the same data and the same version of matplotlib."""
    with mpl.rc_context(_style(INK)):
        figure = comparison_figure(content)
        if figure is None:
            return None
        buffer = io.BytesIO()
        figure.savefig(
            buffer,
            format="png",
            dpi=DOTS,
            metadata={"Software": None},
            facecolor="white",
        )
    return buffer.getvalue()


def write_figures(content: Comparison, folder: Path) -> list[Path]:
    """<experiment>-<scale>.svg and .png; nothing where there is no figure."""
    svg, png = figure_svg(content), figure_png(content)
    if svg is None or png is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    paths = [
        folder / f"{content.slug}-{content.scale}.{kind}" for kind in ("svg", "png")
    ]
    write_text(paths[0], svg)
    with replacing(paths[1]) as file:
        file.write(png)
    return paths


def _style(ink: str) -> dict[str, Any]:
    keys = (
        "text.color",
        "axes.labelcolor",
        "axes.edgecolor",
        "xtick.color",
        "ytick.color",
    )
    return dict.fromkeys(keys, ink) | {
        "font.size": 9.5,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
    }


def _panels(content: Comparison) -> list[list[Series]]:
    """The paper's and our numbers by what they measure; the paper's extras in the first panel of their unit."""
    columns, panels = content.paper.columns, dict[str, list[Series]]()
    for name in content.measured:
        family = name
        if content.paper.form == "curve" and columns[name].stage in FINE_TUNED:
            family = "fine-tuned"
        panels.setdefault(family, []).extend(_series(content, name))
    for name, column in columns.items():
        if name in content.measured:
            continue
        same = [
            family for family, panel in panels.items() if panel[0].unit == column.unit
        ]
        if same:
            panels[same[0]].extend(_series(content, name))
    return list(panels.values())


def _series(content: Comparison, name: str) -> list[Series]:
    cells, column = (
        [row.cells[name] for row in content.rows],
        content.paper.columns[name],
    )
    series = [
        Series(
            column.title,
            column.unit,
            [cell.paper for cell in cells],
            [None] * len(cells),
            False,
        )
    ]
    if name in content.measured:
        series.append(
            Series(
                column.title,
                column.unit,
                [cell.mean for cell in cells],
                [cell.spread for cell in cells],
                True,
            )
        )
    return series


def _draw(left: Axes, panel: list[Series], content: Comparison) -> None:
    unit, right = panel[0].unit, None
    left.set_ylabel(f"paper, {unit}")
    if any(
        value is not None for series in panel if series.ours for value in series.values
    ):
        right = left.twinx()
        right.set_ylabel(f"ours, {unit}", color=OURS[0])
        right.tick_params(axis="y", colors=OURS[0])
        right.spines["top"].set_visible(False)
        right.spines[["right"]].set_color(OURS[0])
    else:
        left.spines["right"].set_visible(False)
    left.spines["top"].set_visible(False)
    left.grid(axis="y", color=mpl.rcParams["text.color"], alpha=0.15, linewidth=0.6)
    left.set_axisbelow(True)
    draw = _curves if content.paper.form == "curve" else _bars
    draw(left, right, panel, [_place(content, i) for i in range(len(content.rows))])
    for axes, ours in ((left, False), (right, True)):
        if axes is not None:
            _range(
                axes,
                [series for series in panel if series.ours == ours],
                content.paper.form == "bars",
            )
    handles = [
        *left.get_legend_handles_labels()[0],
        *(right.get_legend_handles_labels()[0] if right else []),
    ]
    left.legend(
        handles=handles,
        frameon=False,
        ncols=2,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        fontsize=8,
    )


def _place(content: Comparison, i: int) -> float:
    """Where a row stands on the x axis: its number on a curve of numbers, else its rank."""
    if content.paper.form == "curve" and content.paper.kind == "number":
        return float(content.rows[i].label)
    return float(i)


def _curves(
    left: Axes, right: Axes | None, panel: list[Series], places: list[float]
) -> None:
    counts = {True: 0, False: 0}
    for series in panel:
        axes, colours = (right, OURS) if series.ours else (left, PAPER)
        rank = counts[series.ours]
        counts[series.ours] += 1
        known = [
            (x, y, e)
            for x, y, e in zip(places, series.values, series.spreads, strict=True)
            if y is not None
        ]
        if axes is None or not known:
            continue
        xs, ys, spreads = zip(*known, strict=True)
        marker, line = ("o", "-") if series.ours else (PAPER_MARKS[rank % 4], "--")
        errors = [spread or 0.0 for spread in spreads] if any(spreads) else None
        axes.errorbar(
            xs,
            ys,
            errors,
            color=colours[rank % len(colours)],
            marker=marker,
            linestyle=line,
            markersize=4.5,
            linewidth=1.5,
            capsize=2.5,
            label=_named(series),
        )


def _named(series: Series) -> str:
    return f"{series.name}, {'ours (right)' if series.ours else 'paper (left)'}"


def _bars(
    left: Axes, right: Axes | None, panel: list[Series], places: list[float]
) -> None:
    """Groups of bars; an extra of the paper's own stands where the group's first bar would."""
    drawn = [
        series for series in panel if any(value is not None for value in series.values)
    ]
    for rank, series in enumerate(drawn):
        axes, colour = (right, OURS[0]) if series.ours else (left, PAPER[min(rank, 1)])
        if axes is None:
            continue
        label, ink = _named(series), mpl.rcParams["text.color"]
        for place, value, spread in zip(
            places, series.values, series.spreads, strict=True
        ):
            if value is None:
                continue
            x, error = (
                place + (0.2 if series.ours else -0.2),
                {
                    "ecolor": ink,
                    "elinewidth": 1,
                },
            )
            axes.bar(
                x,
                value,
                0.37,
                color=colour,
                yerr=spread,
                capsize=2.5,
                error_kw=error,
                label=label,
            )
            top, above = (x, value + (spread or 0)), (0, 2)
            axes.annotate(
                f"{value:.1f}",
                top,
                above,
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
            label = "_"  # one entry of the legend is enough


def _range(axes: Axes, group: list[Series], bars: bool) -> None:
    """Its own range, of at least NARROWEST; bars leave room under the lowest and for the numbers above."""
    known = [
        (v, e or 0.0)
        for series in group
        for v, e in zip(series.values, series.spreads, strict=True)
        if v is not None
    ]
    low, high = min(v - e for v, e in known), max(v + e for v, e in known)
    lacking = max(0.0, NARROWEST - (high - low))
    low, high = low - lacking / 2, high + lacking / 2
    span = high - low
    axes.set_ylim(
        low - (0.35 if bars else 0.1) * span, high + (0.22 if bars else 0.1) * span
    )


def _rows_axis(axes: Axes, content: Comparison) -> None:
    places = [_place(content, i) for i in range(len(content.rows))]
    labels = [row.label for row in content.rows]
    axes.set_xlabel(content.paper.axis)
    if content.paper.form == "curve" and content.paper.x_scale == "log":
        axes.set_xscale("log")
        axes.minorticks_off()
    elif content.paper.form == "curve":
        shown = _uncrowded(places)
        places, labels = [places[i] for i in shown], [labels[i] for i in shown]
    axes.set_xticks(places, [textwrap.fill(label, WRAP) for label in labels])


def _uncrowded(places: list[float]) -> list[int]:
    """The places whose labels have room, from the left."""
    span, shown = max(places) - min(places), [0]
    for i in range(1, len(places)):
        if places[i] - places[shown[-1]] >= CROWDED * span:
            shown.append(i)
    return shown
