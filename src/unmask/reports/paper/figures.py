"""The paper's figure with ours in it.

Fine-tuning stands above linear probing; the paper's numbers use the left axis and ours
the right one.
"""

import io
import math
import textwrap
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unmask.config.recipes import FINE_TUNING_STAGES
from unmask.reports.paper.comparison import Comparison
from unmask.reports.svg import inline_svg, open_frame, text_style, to_svg
from unmask.storage.atomic import atomic_write

# of a panel, in inches
WIDTH = 4.8
HEIGHT = 2.5
DPI = 160
# versions and dates would change the bytes
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}
# told apart by the colour-blind too (Okabe and Ito 2008)
OUR_COLOURS = ("#0072b2", "#009e73", "#cc79a7")
PAPER_COLOURS = ("#8c959f", "#e69f00", "#d55e00", "#56b4e9")
PAPER_MARKERS = "sD^v"
TEXT_COLOUR = "#24292f"
SIZES = {"font.size": 9.5, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5}
# The axes span at least one unit, so that noise does not look like a trend.
MIN_SPAN = 1.0
# tick labels closer than this share of the axis would overlap
MIN_TICK_GAP = 0.04
LABEL_WIDTH = 12  # characters
# of points that no line joins, to either side of their row
SHIFT = 0.08


class Series(NamedTuple):
    """One line, or one set of points."""

    label: str
    unit: str
    is_ours: bool
    # `value` and `std` over seeds, by where the row stands on the x axis
    points: pd.DataFrame


def comparison_figure(comparison: Comparison) -> Figure | None:
    """Draw the paper's figure or table with our numbers in it.

    Return None for what the paper prints as a table only, and where there is no number.
    """
    if comparison.paper.form == "table":
        return None
    panels = [
        panel
        for panel in _panels(comparison)
        if any(len(series.points) for series in panel)
    ]
    if not panels:
        return None
    figure = Figure((WIDTH, HEIGHT * len(panels) + 0.5), layout="constrained")
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for left, panel in zip(axes, panels, strict=True):
        _draw_panel(left, panel, comparison.paper.form == "curve")
    _label_rows(axes[-1], comparison)
    figure.align_ylabels()
    return figure


def figure_svg(comparison: Comparison, themed: bool = False) -> str | None:
    """Return the <svg> element; `themed` text takes the colour of the page's text."""
    if themed:
        name = f"{comparison.slug}-{comparison.scale}"
        return inline_svg(name, lambda: comparison_figure(comparison), SIZES)
    with text_style(TEXT_COLOUR, SIZES):
        figure = comparison_figure(comparison)
        return to_svg(figure) if figure else None


def figure_bytes(comparison: Comparison, form: str) -> bytes | None:
    """Return the figure on white as png or pdf, the fonts of a PDF embedded.

    The bytes are the same for the same data and the same version of matplotlib.
    """
    buffer = io.BytesIO()
    with text_style(TEXT_COLOUR, SIZES), mpl.rc_context({"pdf.fonttype": 42}):
        figure = comparison_figure(comparison)
        if figure is None:
            return None
        figure.savefig(
            buffer, format=form, dpi=DPI, metadata=METADATA[form], facecolor="white"
        )
    return buffer.getvalue()


def write_figures(
    comparison: Comparison, folder: Path, forms: Collection[str] = ("svg", "png")
) -> list[Path]:
    """Write <experiment>-<scale> in each form, svg, png or pdf; return the paths.

    Nothing is written for what the paper prints as a table only.
    """
    svg = figure_svg(comparison)
    if svg is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"{comparison.slug}-{comparison.scale}"
    paths = []
    for form in forms:
        path = stem.with_name(f"{stem.name}.{form}")
        content = svg.encode() if form == "svg" else figure_bytes(comparison, form)
        assert content is not None
        with atomic_write(path) as file:
            file.write(content)
        paths.append(path)
    return paths


def _panels(comparison: Comparison) -> list[list[Series]]:
    """Group the paper's and our numbers by what they measure."""
    paper = comparison.paper
    panels: dict[str, list[Series]] = {}
    for name in comparison.trained_columns:
        is_tuned = paper.columns[name].stage in FINE_TUNING_STAGES
        key = "fine-tuned" if paper.form == "curve" and is_tuned else name
        panels.setdefault(key, []).extend(_column_series(comparison, name))
    for name, column in paper.columns.items():
        # What only the paper reports joins the first panel of its unit.
        alike = [panel for panel in panels.values() if panel[0].unit == column.unit]
        if name not in comparison.trained_columns and alike:
            alike[0].extend(_column_series(comparison, name)[:1])
    return list(panels.values())


def _column_series(comparison: Comparison, name: str) -> list[Series]:
    """Return the paper's numbers and ours."""
    column = comparison.paper.columns[name]
    numbers = comparison.numbers.loc[name]
    papers = pd.DataFrame({"value": numbers["paper"], "std": math.nan})
    ours = pd.DataFrame({"value": numbers["mean"], "std": numbers["std"]})
    series = []
    for side, points in (("paper (left)", papers), ("ours (right)", ours)):
        points = points.set_axis(_positions(comparison)).dropna(subset="value")
        is_alone = comparison.paper.is_own
        label = column.title if is_alone else f"{column.title}, {side}"
        series.append(Series(label, column.unit, side.startswith("ours"), points))
    return series


def _positions(comparison: Comparison) -> list[float]:
    """Return where each row stands on the x axis.

    It is the row's number on a curve of numbers, else its index.
    """
    paper = comparison.paper
    if paper.form == "curve" and paper.kind == "number":
        return [float(row.row) for row in paper.rows]
    return [float(i) for i in range(len(paper.rows))]


def _draw_panel(left: Axes, panel: list[Series], joined: bool) -> None:
    papers = [series for series in panel if not series.is_ours]
    ours = [series for series in panel if series.is_ours]
    has_papers = any(len(series.points) for series in papers)
    left.set_ylabel(f"paper, {panel[0].unit}" if has_papers else panel[0].unit)
    sides = [(left, papers if has_papers else ours)]
    if has_papers and any(len(series.points) for series in ours):
        right = left.twinx()
        right.set_ylabel(f"ours, {panel[0].unit}", color=OUR_COLOURS[0])
        right.tick_params(axis="y", colors=OUR_COLOURS[0])
        right.spines["top"].set_visible(False)
        right.spines["right"].set_color(OUR_COLOURS[0])
        sides.append((right, ours))
    open_frame(left, color=mpl.rcParams["text.color"], alpha=0.15)
    left.spines["right"].set_visible(len(sides) > 1)
    spans = [high - low for low, high in (_range(group) for _, group in sides)]
    span = max(MIN_SPAN, *spans)
    for axes, group in sides:
        for i, series in enumerate(group):
            if len(series.points):
                _draw_points(axes, series, i, joined)
        _set_range(axes, group, span)
    left.legend(
        handles=[h for axes, _ in sides for h in axes.get_legend_handles_labels()[0]],
        frameon=False,
        ncols=2,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        fontsize=8,
    )


def _draw_points(axes: Axes, series: Series, i: int, joined: bool) -> None:
    """Draw the i-th points of its side, each with its number where none are joined."""
    stds = series.points["std"].fillna(0.0)
    colours = OUR_COLOURS if series.is_ours else PAPER_COLOURS
    line = "-" if series.is_ours else "--"
    shift = 0.0 if joined else SHIFT if series.is_ours else -SHIFT
    axes.errorbar(
        series.points.index + shift,
        series.points["value"],
        stds if stds.any() else None,
        color=colours[i % len(colours)],
        marker="o" if series.is_ours else PAPER_MARKERS[i % len(PAPER_MARKERS)],
        linestyle=line if joined else "none",
        markersize=4.5,
        linewidth=1.5,
        capsize=2.5,
        label=series.label,
    )
    if joined:
        return
    for position, value, _ in series.points.itertuples():
        axes.annotate(
            f"{value:.1f}",
            (position + shift, value),
            (5 if series.is_ours else -5, 0),
            textcoords="offset points",
            ha="left" if series.is_ours else "right",
            va="center",
            fontsize=8,
        )


def _range(group: list[Series]) -> tuple[float, float]:
    """Return the least and the largest number, one standard deviation around."""
    points = pd.concat([series.points for series in group]).fillna(0.0)
    low, high = points["value"] - points["std"], points["value"] + points["std"]
    return low.min(), high.max()


def _set_range(axes: Axes, group: list[Series], span: float) -> None:
    """Centre the axis on its own numbers; `span` is that of both axes of a panel."""
    low, high = _range(group)
    middle, half = (low + high) / 2, 0.6 * span
    axes.set_ylim(middle - half, middle + half)


def _label_rows(axes: Axes, comparison: Comparison) -> None:
    paper = comparison.paper
    labels = [textwrap.fill(row.row, LABEL_WIDTH) for row in paper.rows]
    ticks = dict(zip(_positions(comparison), labels, strict=True))
    axes.set_xlabel(paper.axis)
    if paper.form == "curve" and paper.x_scale == "log":
        axes.set_xscale("log")
        axes.minorticks_off()
    elif paper.form == "curve":
        # only labels that do not overlap, from the left
        gap = MIN_TICK_GAP * (max(ticks) - min(ticks))
        last = -math.inf
        for position in list(ticks):
            if position - last < gap:
                del ticks[position]
            else:
                last = position
    axes.set_xticks(list(ticks), list(ticks.values()))
    if paper.form != "curve":
        # the numbers beside the first and the last points need room
        axes.set_xlim(-0.6, len(ticks) - 0.4)
