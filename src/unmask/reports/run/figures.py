"""Figures of a run: curves, measurements, accuracy by severity."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unmask.reports.svg import open_frame

# by the weights that a measurement starts from
COLOURS = {"pretrained": "#1f6feb", "random": "#8c959f", "pixels": "#d4a72c"}
START_NAMES = {
    "pretrained": "pretrained by MAE",
    "random": "random weights",
    "pixels": "raw pixels",
}
BAR_WIDTH = 0.26
# of a measurement and its controls, in inches
MEASUREMENT_HEIGHT = 0.75
# the least distance between two labels at the ends of curves, in per cent
MIN_LABEL_GAP = 5.0


def _new_axes(height: float = 3.4) -> tuple[Figure, Axes]:
    """Return an empty figure of that height in inches, and its only axes."""
    figure = Figure((7.2, height))
    axes = figure.subplots()
    open_frame(axes, color="#8c959f", alpha=0.35)
    return figure, axes


def loss_curve(rows: list[dict[str, Any]]) -> Figure:
    """Draw training and validation loss of pretraining by epoch.

    rows: of metrics.jsonl; a row has the training loss, the validation loss, or both.
    """
    figure, axes = _new_axes()
    for key, label, colour, marker in (
        ("train/loss", "training", COLOURS["random"], ""),
        ("val/loss", "validation (fixed masks)", COLOURS["pretrained"], "o"),
    ):
        points = [(row["epoch"], row[key]) for row in rows if key in row]
        axes.plot(
            *zip(*points, strict=True),
            label=label,
            color=colour,
            marker=marker,
            markersize=4,
            linewidth=1.5,
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel("reconstruction loss on hidden patches")
    axes.legend(frameon=False)
    return figure


def measurement_bars(measurements: list[dict[str, Any]]) -> Figure:
    """Draw the accuracy of each measurement beside its controls.

    measurements: of `group_measurements`; they stand below each other, so that their
    names are read at any number of them.
    """
    figure, axes = _new_axes(MEASUREMENT_HEIGHT * len(measurements) + 0.9)
    # The middle one of three bars stands on the tick.
    for start, shift in zip(START_NAMES, (-BAR_WIDTH, 0, BAR_WIDTH), strict=True):
        bars = {
            y + shift: group["accuracy"][start]
            for y, group in enumerate(measurements)
            if start in group["accuracy"]
        }
        if not bars:
            continue
        drawn = axes.barh(
            list(bars),
            list(bars.values()),
            BAR_WIDTH * 0.94,
            color=COLOURS[start],
            label=START_NAMES[start],
        )
        axes.bar_label(drawn, fmt="%.1f", padding=3, fontsize=9)
    axes.set_yticks(range(len(measurements)), [group["name"] for group in measurements])
    axes.set_ylim(len(measurements) - 0.5, -0.5)
    axes.set_xlim(0, 108)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("top-1 accuracy, %")
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", linewidth=0.6, color="#8c959f", alpha=0.35)
    axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def severity_curves(rows: list[dict[str, Any]]) -> Figure:
    """Draw accuracy by severity: a thin line for each corruption, and their mean.

    rows: of the robustness stage's cells.jsonl; severity 0 is the clean images.
    """
    figure, axes = _new_axes(height=4.2)
    clean = {row["severity"]: row["accuracy"] for row in rows if row["severity"] == 0}
    curves: dict[str, dict[int, float]] = {}
    for row in rows:
        if row["severity"]:
            curve = curves.setdefault(row["name"], {**clean})
            curve[row["severity"]] = row["accuracy"]
    for curve in curves.values():
        axes.plot(
            list(curve),
            list(curve.values()),
            color=COLOURS["random"],
            linewidth=0.8,
            alpha=0.7,
        )
    means = pd.DataFrame(curves).sort_index().mean(axis=1)
    axes.plot(
        means.index,
        means,
        color=COLOURS["pretrained"],
        marker="o",
        markersize=5,
        linewidth=2,
    )
    last = means.index[-1]
    _label_ends(axes, {name: curve[last] for name, curve in curves.items()}, last)
    axes.set_xticks(means.index, ["clean" if s == 0 else str(s) for s in means.index])
    axes.set_xlabel("severity of the corruption (blue: mean of all)")
    axes.set_ylabel("top-1 accuracy, %")
    axes.set_ylim(0, 102)
    return figure


def _label_ends(axes: Axes, ends: dict[str, float], x: float) -> None:
    """Write each curve's name and value at its end, best first, without overlaps."""
    y = 100.0 + MIN_LABEL_GAP
    for name, value in sorted(ends.items(), key=lambda end: -end[1]):
        y = min(value, y - MIN_LABEL_GAP)
        text = f"{name.replace('_', ' ')}  {value:.0f}"
        axes.text(x + 0.12, y, text, fontsize=7, va="center")
