"""Figures as SVG text: the loss curve, measurements beside their controls."""

import io
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {"pretrained": "#1f6feb", "random": "#8c959f", "pixels": "#d4a72c"}
NAMES = {
    "pretrained": "pretrained by MAE",
    "random": "random weights",
    "pixels": "raw pixels",
}
SIZE = (7.2, 3.4)
LABEL_GAP = 5.0  # per cent


def to_svg(figure: Figure) -> str:
    """The <svg> element alone, without a date: the same data gives the same text."""
    buffer = io.StringIO()
    # without a salt, marks and clippings are named at random
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
    """Training and validation loss of pretraining by epoch."""
    figure = Figure(SIZE)
    axes = figure.subplots()
    for key, label, colour, marker in (
        ("train/loss", "training", COLOURS["random"], ""),
        ("val/loss", "validation (fixed masks)", COLOURS["pretrained"], "o"),
    ):
        points = [(row["epoch"], row[key]) for row in rows if key in row]
        if points:
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
    _plain(axes)
    return to_svg(figure)


def measurement_bars(measured: list[dict[str, Any]]) -> str:
    """Accuracy of each measurement on the pretrained encoder, on random weights and on raw pixels."""
    figure = Figure(SIZE)
    axes = figure.subplots()
    width = 0.26
    for i, start in enumerate(NAMES):
        having = [
            (x, group) for x, group in enumerate(measured) if start in group["accuracy"]
        ]
        for x, group in having:
            value = group["accuracy"][start]
            place = x + (i - 1) * width
            axes.bar(
                place,
                value,
                width * 0.94,
                color=COLOURS[start],
                label=NAMES[start] if x == having[0][0] else None,
            )
            axes.text(
                place, value + 1, f"{value:.1f}", ha="center", va="bottom", fontsize=9
            )
    axes.set_xticks(range(len(measured)), [group["name"] for group in measured])
    axes.set_xlim(-0.6, len(measured) - 0.4)
    axes.set_ylim(0, 112)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("top-1 accuracy, %")
    axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    _plain(axes)
    return to_svg(figure)


def severity_curves(rows: list[dict[str, Any]]) -> str:
    """Accuracy by severity: a thin line each corruption, named at its end, and the mean of all."""
    figure = Figure((7.2, 4.2))
    axes = figure.subplots()
    clean = next((row["accuracy"] for row in rows if row["severity"] == 0), None)
    names = list(dict.fromkeys(row["name"] for row in rows if row["severity"]))
    curves = {
        n: {row["severity"]: row["accuracy"] for row in rows if row["name"] == n}
        for n in names
    }
    severities = sorted({severity for curve in curves.values() for severity in curve})
    start = {} if clean is None else {0: clean}
    for curve in curves.values():
        points = {**start, **curve}
        axes.plot(
            list(points),
            list(points.values()),
            color=COLOURS["random"],
            linewidth=0.8,
            alpha=0.7,
        )
    mean = {
        s: (
            sum(c[s] for c in curves.values() if s in c)
            / sum(s in c for c in curves.values())
        )
        for s in severities
    }
    points = {**start, **mean}
    axes.plot(
        list(points),
        list(points.values()),
        color=COLOURS["pretrained"],
        marker="o",
        markersize=5,
        linewidth=2,
    )
    _end_labels(
        axes,
        {name: curve[severities[-1]] for name, curve in curves.items()},
        severities[-1],
    )
    axes.set_xticks(
        list(points),
        ["clean" if severity == 0 else str(severity) for severity in points],
    )
    axes.set_xlabel("severity of the corruption (blue: mean of all)")
    axes.set_ylabel("top-1 accuracy, %")
    axes.set_ylim(0, 102)
    _plain(axes)
    return to_svg(figure)


def _end_labels(axes: Axes, ends: dict[str, float], x: float) -> None:
    """Names and values at the severest, best first, moved apart where their lines end close together."""
    place = 100.0 + LABEL_GAP
    for name, value in sorted(ends.items(), key=lambda end: -end[1]):
        place = min(value, place - LABEL_GAP)
        axes.text(
            x + 0.12,
            place,
            f"{name.replace('_', ' ')}  {value:.0f}",
            fontsize=7,
            va="center",
        )


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#d0d7de", linewidth=0.6)
    axes.set_axisbelow(True)
