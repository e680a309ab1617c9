"""Figures of a run as SVG text: loss curve, measurements, accuracy by severity."""

import io
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# by the weights that a measurement starts from
COLOURS = {"pretrained": "#1f6feb", "random": "#8c959f", "pixels": "#d4a72c"}
START_NAMES = {
    "pretrained": "pretrained by MAE",
    "random": "random weights",
    "pixels": "raw pixels",
}
FIGURE_SIZE = (7.2, 3.4)  # inches
BAR_WIDTH = 0.26
# the least distance between two labels at the ends of curves, in per cent
MIN_LABEL_GAP = 5.0


def to_svg(figure: Figure) -> str:
    """Return the <svg> element alone: the same text for the same figure."""
    buffer = io.StringIO()
    # Without a salt matplotlib names markers and clip paths at random; without a
    # date of None it writes today's.
    with mpl.rc_context({"svg.hashsalt": "unmask"}):
        figure.savefig(
            buffer,
            format="svg",
            metadata={"Date": None},
            bbox_inches="tight",
            transparent=True,
        )
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def loss_curve(rows: list[dict[str, Any]]) -> str:
    """Draw training and validation loss of pretraining by epoch.

    rows: of metrics.jsonl; a row has the training loss, the validation loss, or both.
    """
    figure = Figure(FIGURE_SIZE)
    axes = figure.subplots()
    for key, label, colour, marker in (
        ("train/loss", "training", COLOURS["random"], ""),
        ("val/loss", "validation (fixed masks)", COLOURS["pretrained"], "o"),
    ):
        points = [(row["epoch"], row[key]) for row in rows if key in row]
        if not points:
            continue
        epochs, losses = zip(*points, strict=True)
        axes.plot(
            epochs,
            losses,
            label=label,
            color=colour,
            marker=marker,
            markersize=4,
            linewidth=1.5,
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel("reconstruction loss on hidden patches")
    axes.legend(frameon=False)
    _remove_frame(axes)
    return to_svg(figure)


def measurement_bars(measurements: list[dict[str, Any]]) -> str:
    """Draw the accuracy of each measurement beside its controls.

    measurements: of `group_measurements`.
    """
    figure = Figure(FIGURE_SIZE)
    axes = figure.subplots()
    for i, start in enumerate(START_NAMES):
        label: str | None = START_NAMES[start]
        for x, group in enumerate(measurements):
            if start not in group["accuracy"]:
                continue
            value = group["accuracy"][start]
            # The middle one of three bars stands on the tick.
            center = x + (i - 1) * BAR_WIDTH
            axes.bar(center, value, BAR_WIDTH * 0.94, color=COLOURS[start], label=label)
            axes.text(
                center, value + 1, f"{value:.1f}", ha="center", va="bottom", fontsize=9
            )
            # one entry of the legend for all bars of a start
            label = None
    axes.set_xticks(range(len(measurements)), [group["name"] for group in measurements])
    axes.set_xlim(-0.6, len(measurements) - 0.4)
    axes.set_ylim(0, 112)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("top-1 accuracy, %")
    axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    _remove_frame(axes)
    return to_svg(figure)


def severity_curves(rows: list[dict[str, Any]]) -> str:
    """Draw accuracy by severity: a thin line for each corruption, and their mean.

    rows: of the robustness stage's cells.jsonl; severity 0 is the clean images.
    """
    figure = Figure((7.2, 4.2))
    axes = figure.subplots()
    clean_values = [row["accuracy"] for row in rows if row["severity"] == 0]
    clean = {0: clean_values[0]} if clean_values else {}
    curves: dict[str, dict[int, float]] = {}
    for row in rows:
        if row["severity"]:
            curve = curves.setdefault(row["name"], {})
            curve[row["severity"]] = row["accuracy"]
    severities = sorted({severity for curve in curves.values() for severity in curve})

    for curve in curves.values():
        points = {**clean, **curve}
        axes.plot(
            list(points),
            list(points.values()),
            color=COLOURS["random"],
            linewidth=0.8,
            alpha=0.7,
        )
    means = {**clean, **_mean_by_severity(curves, severities)}
    axes.plot(
        list(means),
        list(means.values()),
        color=COLOURS["pretrained"],
        marker="o",
        markersize=5,
        linewidth=2,
    )
    last = severities[-1]
    ends = {name: curve[last] for name, curve in curves.items()}
    _label_ends(axes, ends, last)
    axes.set_xticks(list(means), ["clean" if s == 0 else str(s) for s in means])
    axes.set_xlabel("severity of the corruption (blue: mean of all)")
    axes.set_ylabel("top-1 accuracy, %")
    axes.set_ylim(0, 102)
    _remove_frame(axes)
    return to_svg(figure)


def _mean_by_severity(
    curves: dict[str, dict[int, float]], severities: list[int]
) -> dict[int, float]:
    means = {}
    for severity in severities:
        values = [curve[severity] for curve in curves.values() if severity in curve]
        means[severity] = sum(values) / len(values)
    return means


def _label_ends(axes: Axes, ends: dict[str, float], x: float) -> None:
    """Write each curve's name and value at its end, best first, without overlaps."""
    y = 100.0 + MIN_LABEL_GAP
    for name, value in sorted(ends.items(), key=lambda end: -end[1]):
        y = min(value, y - MIN_LABEL_GAP)
        axes.text(
            x + 0.12,
            y,
            f"{name.replace('_', ' ')}  {value:.0f}",
            fontsize=7,
            va="center",
        )


def _remove_frame(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#d0d7de", linewidth=0.6)
    axes.set_axisbelow(True)
