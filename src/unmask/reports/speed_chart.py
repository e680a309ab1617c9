"""The chart of the step benchmark: images a second of each contestant."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unmask.config.hardware import PRECISION_NAMES
from unmask.reports.svg import open_frame, text_style, to_svg

TEXT_COLOUR = "#24292f"
BACKGROUND = "white"
OUR_COLOUR = "#1f6feb"
PEER_COLOUR = "#8c959f"
# in inches
WIDTH = 7.2
BAR_HEIGHT = 0.3
ROOM_HEIGHT = 0.9


def speed_chart(rows: Sequence[dict[str, Any]], title: str) -> str:
    """Return an SVG with a panel for each precision, fastest contestant first.

    rows: of the benchmark's CSV file. Thin lines span the quartiles of its steps.
    """
    precisions = list(dict.fromkeys(row["precision"] for row in rows))
    panels = [
        sorted(
            (row for row in rows if row["precision"] == precision),
            key=lambda row: row["seconds"],
        )
        for precision in precisions
    ]
    with text_style(TEXT_COLOUR, {"font.size": 9.5}):
        height = BAR_HEIGHT * len(rows) + ROOM_HEIGHT * len(panels)
        figure = Figure((WIDTH, height), layout="constrained", facecolor=BACKGROUND)
        figure.suptitle(title, fontsize=10)
        all_axes = figure.subplots(
            len(panels),
            sharex=True,
            squeeze=False,
            height_ratios=[len(panel) for panel in panels],
        )[:, 0]
        for axes, precision, panel in zip(all_axes, precisions, panels, strict=True):
            _draw_panel(axes, panel)
            axes.set_title(PRECISION_NAMES[precision], loc="left", fontsize=9.5)
        all_axes[-1].set_xlabel("images a second")
        return to_svg(figure)


def _draw_panel(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    speeds = [row["images_per_second"] for row in rows]
    lows = [row["batch"] / row["seconds_high"] for row in rows]
    highs = [row["batch"] / row["seconds_low"] for row in rows]
    below = [speed - low for speed, low in zip(speeds, lows, strict=True)]
    above = [high - speed for speed, high in zip(speeds, highs, strict=True)]
    colours = [
        OUR_COLOUR if row["implementation"] == "unmask" else PEER_COLOUR for row in rows
    ]
    open_frame(axes)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", linewidth=0.6, alpha=0.35)
    labels = [
        f"{row['contestant']}  {speed:,.3g}"
        for row, speed in zip(rows, speeds, strict=True)
    ]
    axes.barh(
        labels,
        speeds,
        xerr=(below, above),
        color=colours,
        error_kw={"elinewidth": 0.8, "ecolor": TEXT_COLOUR},
    )
    # the fastest on top
    axes.invert_yaxis()
