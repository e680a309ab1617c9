"""Figures of classifiers: accuracy while they train, class by class, confusions."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from unmask.reports.svg import open_frame

BLUE = "#1f6feb"
GREY = "#8c959f"
# safe for the colour-blind (Okabe and Ito 2008)
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
# of more classes the worst and the best are drawn
MAX_BARS = 24
# more classes have no room for their names, or for numbers, in the matrix
MAX_NAMES = 40
MAX_NUMBERS = 12
NAME_LENGTH = 18  # characters


def accuracy_curves(stages: dict[str, list[dict[str, Any]]]) -> Figure | None:
    """Draw validation accuracy by epoch of each classifier.

    stages: rows of metrics.jsonl by the stage's title. None where no row has one.
    """
    curves = {
        title: [(r["epoch"], r["val/accuracy"]) for r in rows if "val/accuracy" in r]
        for title, rows in stages.items()
    }
    curves = {title: points for title, points in curves.items() if points}
    if not curves:
        return None
    figure = Figure((7.2, 3.4))
    axes = figure.subplots()
    open_frame(axes, color=GREY, alpha=0.35)
    for i, (title, points) in enumerate(curves.items()):
        axes.plot(
            *zip(*points, strict=True),
            label=title,
            color=LINES[i % len(LINES)],
            linestyle="-" if i < len(LINES) else "--",
            marker="o",
            markersize=3,
            linewidth=1.5,
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel("top-1 accuracy, %")
    axes.legend(frameon=False, fontsize=8)
    return figure


def class_bars(table: pd.DataFrame) -> Figure:
    """Draw the accuracy of each class, best first.

    table: classes.csv; classes without images have no accuracy and no bar.
    """
    ordered = table.dropna(subset="accuracy").sort_values(
        "accuracy", ascending=False, kind="stable"
    )
    if len(ordered) > MAX_BARS:
        half = MAX_BARS // 2
        ordered = pd.concat([ordered.head(half), ordered.tail(half)])
    figure = Figure((4.8, 0.22 * len(ordered) + 0.8))
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    bars = axes.barh(range(len(ordered)), ordered["accuracy"], 0.72, color=BLUE)
    axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    names = [_short(name) for name in ordered["class"]]
    axes.set_yticks(range(len(ordered)), names, fontsize=8)
    axes.set_ylim(len(ordered) - 0.4, -0.6)
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 25))
    axes.set_xlabel("accuracy of the class, %")
    return figure


def confusion_matrix(square: pd.DataFrame) -> Figure:
    """Draw which class is taken for which: shares of each true class, in per cent.

    square: confusion.csv, counts with the true class as row.
    """
    counts = square.to_numpy()
    shares = 100 * counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    size = len(counts)
    figure = Figure((4.8, 4.6))
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if size > MAX_NAMES:
        return figure
    names = [_short(name) for name in square.columns]
    font = 9 if size <= MAX_NUMBERS else 6
    axes.set_xticks(range(size), names, fontsize=font, rotation=90)
    axes.set_yticks(range(size), names, fontsize=font)
    if size <= MAX_NUMBERS:
        for (row, column), share in _cells(shares):
            colour = "white" if share > 50 else "black"
            text = f"{share:.0f}"
            axes.text(
                column, row, text, ha="center", va="center", fontsize=8, color=colour
            )
    return figure


def _cells(shares: Any) -> list[tuple[tuple[int, int], float]]:
    """Return row, column and share of what is drawn with a number: half a per cent."""
    return [
        ((row, column), share)
        for row, line in enumerate(shares)
        for column, share in enumerate(line)
        if share >= 0.5
    ]


def _short(name: Any) -> str:
    text = str(name)
    return text if len(text) <= NAME_LENGTH else f"{text[: NAME_LENGTH - 1]}…"
