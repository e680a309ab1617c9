"""The paper's figure with ours in it.

Fine-tuning stands above linear probing; the paper's numbers use the left axis and ours
the right one.
"""

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
from unmask.storage.atomic import atomic_write, write_text

# of a panel, in inches
WIDTH = 4.8
HEIGHT = 2.5
DPI = 160
OUR_COLOURS = ("#2f81f7", "#0f9d8a", "#a371f7")
PAPER_COLOURS = ("#8c959f", "#b08800", "#bc4c00", "#8250df")
PAPER_MARKERS = "sD^v"
TEXT_COLOUR = "#24292f"
# stands for the colour of the page's own text, which replaces it in the SVG
PLACEHOLDER = "#010203"
# what comes before an identifier in an SVG
IDENTIFIER_PREFIX = re.compile(r'\bid="|href="#|url\(#')
# the stages whose numbers share a panel of a curve
FINE_TUNING_STAGES = ("finetune", "scratch", "partial_finetune")
# An axis spans at least one unit, so that noise does not look like a trend.
MIN_SPAN = 1.0
# tick labels closer than this share of the axis would overlap
MIN_TICK_GAP = 0.04
LABEL_WIDTH = 12  # characters


class Series(NamedTuple):
    """One line or one set of bars: a value for each row, None where there is none."""

    name: str
    unit: str
    values: list[float | None]
    # standard deviations over seeds
    stds: list[float | None]
    is_ours: bool


def comparison_figure(comparison: Comparison) -> Figure | None:
    """Draw the paper's figure or table with our numbers in it.

    Return None for what the paper prints as a table only, and where there is no number.
    """
    if comparison.paper.form == "table":
        return None
    panels = [panel for panel in _panels(comparison) if any(map(_has_values, panel))]
    if not panels:
        return None
    figure = Figure((WIDTH, HEIGHT * len(panels) + 0.5), layout="constrained")
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for left, panel in zip(axes, panels, strict=True):
        _draw_panel(left, panel, comparison)
    _label_rows(axes[-1], comparison)
    figure.align_ylabels()
    return figure


def figure_svg(comparison: Comparison, themed: bool = False) -> str | None:
    """Return the <svg> element; `themed` text takes the colour of the page's text."""
    with mpl.rc_context(_style(PLACEHOLDER if themed else TEXT_COLOUR)):
        figure = comparison_figure(comparison)
        svg = to_svg(figure) if figure else None
    if svg is None or not themed:
        return svg
    # A themed figure shares a page with others: its identifiers must be its own.
    prefix = f"{comparison.slug}-{comparison.scale}-"
    unique = IDENTIFIER_PREFIX.sub(rf"\g<0>{prefix}", svg)
    return unique.replace(PLACEHOLDER, "currentColor")


def figure_png(comparison: Comparison) -> bytes | None:
    """Return the figure on white.

    The bytes are the same for the same data and the same version of matplotlib.
    """
    with mpl.rc_context(_style(TEXT_COLOUR)):
        figure = comparison_figure(comparison)
        if figure is None:
            return None
        buffer = io.BytesIO()
        figure.savefig(
            buffer,
            format="png",
            dpi=DPI,
            # the version of matplotlib would change the bytes
            metadata={"Software": None},
            facecolor="white",
        )
    return buffer.getvalue()


def write_figures(comparison: Comparison, folder: Path) -> list[Path]:
    """Write <experiment>-<scale>.svg and .png; write nothing without a figure."""
    svg = figure_svg(comparison)
    png = figure_png(comparison)
    if svg is None or png is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{comparison.slug}-{comparison.scale}"
    svg_path = folder / f"{stem}.svg"
    png_path = folder / f"{stem}.png"
    write_text(svg_path, svg)
    with atomic_write(png_path) as file:
        file.write(png)
    return [svg_path, png_path]


def _style(text_colour: str) -> dict[str, Any]:
    return {
        "text.color": text_colour,
        "axes.labelcolor": text_colour,
        "axes.edgecolor": text_colour,
        "xtick.color": text_colour,
        "ytick.color": text_colour,
        "font.size": 9.5,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
    }


def _has_values(series: Series) -> bool:
    return any(value is not None for value in series.values)


def _panels(comparison: Comparison) -> list[list[Series]]:
    """Group the paper's and our numbers by what they measure."""
    columns = comparison.paper.columns
    is_curve = comparison.paper.form == "curve"
    panels: dict[str, list[Series]] = {}
    for name in comparison.trained_columns:
        key = name
        if is_curve and columns[name].stage in FINE_TUNING_STAGES:
            key = "fine-tuned"
        panels.setdefault(key, []).extend(_column_series(comparison, name))
    for name, column in columns.items():
        if name in comparison.trained_columns:
            continue
        # What only the paper reports joins the first panel of its unit.
        for panel in panels.values():
            if panel[0].unit == column.unit:
                panel.extend(_column_series(comparison, name))
                break
    return list(panels.values())


def _column_series(comparison: Comparison, name: str) -> list[Series]:
    column = comparison.paper.columns[name]
    cells = [row.cells[name] for row in comparison.rows]
    papers = Series(
        column.title,
        column.unit,
        values=[cell.paper for cell in cells],
        stds=[None] * len(cells),
        is_ours=False,
    )
    if name not in comparison.trained_columns:
        return [papers]
    ours = Series(
        column.title,
        column.unit,
        values=[cell.mean for cell in cells],
        stds=[cell.std for cell in cells],
        is_ours=True,
    )
    return [papers, ours]


def _draw_panel(left: Axes, panel: list[Series], comparison: Comparison) -> None:
    unit = panel[0].unit
    is_bars = comparison.paper.form == "bars"
    left.set_ylabel(f"paper, {unit}")
    right = None
    if any(series.is_ours and _has_values(series) for series in panel):
        right = left.twinx()
        right.set_ylabel(f"ours, {unit}", color=OUR_COLOURS[0])
        right.tick_params(axis="y", colors=OUR_COLOURS[0])
        right.spines["top"].set_visible(False)
        right.spines[["right"]].set_color(OUR_COLOURS[0])
    else:
        left.spines["right"].set_visible(False)
    left.spines["top"].set_visible(False)
    left.grid(axis="y", color=mpl.rcParams["text.color"], alpha=0.15, linewidth=0.6)
    left.set_axisbelow(True)

    positions = [_row_position(comparison, i) for i in range(len(comparison.rows))]
    draw = _draw_curves if comparison.paper.form == "curve" else _draw_bars
    draw(left, right, panel, positions)
    _set_range(left, [series for series in panel if not series.is_ours], is_bars)
    if right is not None:
        _set_range(right, [series for series in panel if series.is_ours], is_bars)
    _add_legend(left, right)


def _add_legend(left: Axes, right: Axes | None) -> None:
    handles, _ = left.get_legend_handles_labels()
    if right is not None:
        handles = [*handles, *right.get_legend_handles_labels()[0]]
    left.legend(
        handles=handles,
        frameon=False,
        ncols=2,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        fontsize=8,
    )


def _row_position(comparison: Comparison, i: int) -> float:
    """Return where a row stands on the x axis.

    It is the row's number on a curve of numbers, else its index.
    """
    paper = comparison.paper
    if paper.form == "curve" and paper.kind == "number":
        return float(comparison.rows[i].label)
    return float(i)


def _draw_curves(
    left: Axes, right: Axes | None, panel: list[Series], positions: list[float]
) -> None:
    num_drawn = {True: 0, False: 0}
    for series in panel:
        axes = right if series.is_ours else left
        i = num_drawn[series.is_ours]
        num_drawn[series.is_ours] += 1
        points = [
            (x, y, std)
            for x, y, std in zip(positions, series.values, series.stds, strict=True)
            if y is not None
        ]
        if axes is None or not points:
            continue
        colours = OUR_COLOURS if series.is_ours else PAPER_COLOURS
        xs, ys, stds = zip(*points, strict=True)
        axes.errorbar(
            xs,
            ys,
            [std or 0.0 for std in stds] if any(stds) else None,
            color=colours[i % len(colours)],
            marker="o" if series.is_ours else PAPER_MARKERS[i % len(PAPER_MARKERS)],
            linestyle="-" if series.is_ours else "--",
            markersize=4.5,
            linewidth=1.5,
            capsize=2.5,
            label=_legend_label(series),
        )


def _legend_label(series: Series) -> str:
    return f"{series.name}, {'ours (right)' if series.is_ours else 'paper (left)'}"


def _draw_bars(
    left: Axes, right: Axes | None, panel: list[Series], positions: list[float]
) -> None:
    # What only the paper reports is drawn where the paper's bar of the row would be.
    for i, series in enumerate(filter(_has_values, panel)):
        axes = right if series.is_ours else left
        if axes is None:
            continue
        colour = OUR_COLOURS[0] if series.is_ours else PAPER_COLOURS[min(i, 1)]
        _draw_bar_series(axes, series, positions, colour)


def _draw_bar_series(
    axes: Axes, series: Series, positions: list[float], colour: str
) -> None:
    label = _legend_label(series)
    offset = 0.2 if series.is_ours else -0.2
    for position, value, std in zip(positions, series.values, series.stds, strict=True):
        if value is None:
            continue
        x = position + offset
        axes.bar(
            x,
            value,
            0.37,
            color=colour,
            yerr=std,
            capsize=2.5,
            error_kw={"ecolor": mpl.rcParams["text.color"], "elinewidth": 1},
            label=label,
        )
        axes.annotate(
            f"{value:.1f}",
            (x, value + (std or 0)),
            (0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
        # matplotlib leaves labels that begin with "_" out of the legend
        label = "_"


def _set_range(axes: Axes, group: list[Series], is_bars: bool) -> None:
    """Fit the axis to its own numbers: each side has its own range."""
    lows = []
    highs = []
    for series in group:
        for value, std in zip(series.values, series.stds, strict=True):
            if value is not None:
                lows.append(value - (std or 0.0))
                highs.append(value + (std or 0.0))
    low = min(lows)
    high = max(highs)
    missing_span = max(0.0, MIN_SPAN - (high - low))
    low -= missing_span / 2
    high += missing_span / 2
    span = high - low
    # The lowest bar needs a visible height, and the numbers above bars need room.
    below = 0.35 if is_bars else 0.1
    above = 0.22 if is_bars else 0.1
    axes.set_ylim(low - below * span, high + above * span)


def _label_rows(axes: Axes, comparison: Comparison) -> None:
    paper = comparison.paper
    positions = [_row_position(comparison, i) for i in range(len(comparison.rows))]
    labels = [row.label for row in comparison.rows]
    axes.set_xlabel(paper.axis)
    if paper.form == "curve" and paper.x_scale == "log":
        axes.set_xscale("log")
        axes.minorticks_off()
    elif paper.form == "curve":
        shown = _indices_with_room(positions)
        positions = [positions[i] for i in shown]
        labels = [labels[i] for i in shown]
    axes.set_xticks(positions, [textwrap.fill(text, LABEL_WIDTH) for text in labels])


def _indices_with_room(positions: list[float]) -> list[int]:
    """Return the indices whose labels do not overlap, from the left."""
    span = max(positions) - min(positions)
    shown = [0]
    for i in range(1, len(positions)):
        if positions[i] - positions[shown[-1]] >= MIN_TICK_GAP * span:
            shown.append(i)
    return shown
