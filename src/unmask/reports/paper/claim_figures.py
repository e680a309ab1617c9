"""Claims as estimates with intervals, look after look, beside what they are judged by.

One line a claim: the difference of two rows after each look, the band that counts as no
difference, the margin that the claim asks for, and the difference of the paper's rows.
"""

import math
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from unmask.config.recipes import stage_noun
from unmask.reports.paper.claims import JudgedClaim
from unmask.reports.paper.comparison import Comparison
from unmask.reports.paper.history import History, Look
from unmask.reports.svg import inline_svg

# inches: of the figure, of a claim, and around all of them
WIDTH = 4.8
CLAIM_HEIGHT = 0.62
FRAME_HEIGHT = 0.75
LABEL_WIDTH = 24  # characters
SIZES = {"font.size": 9.0, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5}
# told apart by the colour-blind too (Okabe and Ito 2008)
COLOURS = {
    "holds": "#009e73",
    "does not hold": "#d55e00",
    "no difference": "#56b4e9",
    "cannot tell yet": "#8c959f",
}
PAPER_COLOUR = "#e69f00"
# share of a claim's height over which its looks are spread
SPREAD = 0.6
# a judge after every seed has more looks than can be drawn
MAX_LOOKS = 4
# points beyond the estimates that are shown at least
MARGIN = 1.0


class DrawnClaim(NamedTuple):
    """A claim with what its line is called, and the panel that it stands in."""

    panel: str
    label: str
    judged: JudgedClaim
    history: History


def drawn_claims(comparison: Comparison, place: str = "") -> list[DrawnClaim]:
    """Return the claims on accuracies that a look has reached.

    place: where they stand in the paper, as their labels begin.
    """
    drawn = []
    for judged in comparison.claims:
        column = comparison.paper.columns[judged.claim.column]
        history = judged.history
        if history and history.looks and "accuracy" in column.metric:
            # the minus stays with what follows it
            sign = "\N{MINUS SIGN}\N{NO-BREAK SPACE}"
            label = f"{place}{history.pair.high} {sign}{history.pair.low}"
            panel = stage_noun(column.stage) if column.stage else column.title
            drawn.append(DrawnClaim(panel, label, judged, history))
    return drawn


def claims_svg(name: str, claims: Sequence[DrawnClaim]) -> str | None:
    """Return the figure of these claims for a page; None where there is none."""
    return inline_svg(name, lambda: claims_figure(claims), SIZES)


def claims_figure(claims: Sequence[DrawnClaim]) -> Figure | None:
    """Draw the claims in a panel for each stage; None where there is none."""
    panels: dict[str, list[DrawnClaim]] = {}
    for claim in claims:
        panels.setdefault(claim.panel, []).append(claim)
    if not panels:
        return None
    counts = [len(drawn) for drawn in panels.values()]
    height = CLAIM_HEIGHT * sum(counts) + FRAME_HEIGHT * len(counts)
    figure = Figure((WIDTH, height), layout="constrained")
    # stages differ in how far their seeds lie apart: each has an axis of its own
    axes = figure.subplots(len(counts), squeeze=False, height_ratios=counts)[:, 0]
    for panel, (title, drawn) in zip(axes, panels.items(), strict=True):
        _draw_panel(panel, title, drawn)
    figure.legend(
        handles=_legend(claims),
        loc="outside upper left",
        ncols=3,
        frameon=False,
        fontsize=8,
    )
    return figure


def _draw_panel(axes: Axes, title: str, claims: Sequence[DrawnClaim]) -> None:
    for place, claim in enumerate(claims):
        _draw_claim(axes, place, claim.history, COLOURS[claim.judged.verdict])
    labels = ["\n".join(textwrap.wrap(claim.label, LABEL_WIDTH)) for claim in claims]
    axes.set_yticks(range(len(claims)), labels)
    axes.set_ylim(len(claims) - 0.5, -0.5)
    axes.set_xlim(*_limits([claim.history for claim in claims]))
    axes.axvline(0, linewidth=0.8, color=COLOURS["cannot tell yet"])
    axes.set_xlabel(f"{title}: difference, points")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _draw_claim(axes: Axes, place: int, history: History, colour: str) -> None:
    top, bottom = place - 0.42, place + 0.42
    if history.alike is not None:
        axes.fill_betweenx(
            [top, bottom],
            -history.alike,
            history.alike,
            color=COLOURS["no difference"],
            alpha=0.22,
            lw=0,
        )
    margin = history.pair.margin
    if margin:
        axes.plot([margin, margin], [top, bottom], ":", color=colour, linewidth=1.2)
    if history.paper is not None:
        axes.plot(history.paper, place, "D", color=PAPER_COLOUR, markersize=4.5)
    looks = shown_looks(history)
    for i, look in enumerate(looks):
        y = place + SPREAD * ((i + 0.5) / len(looks) - 0.5)
        axes.plot([look.low, look.high], [y, y], color=colour, linewidth=1.4)
        axes.plot(look.mean, y, "o", color=colour, markersize=3.0 + i)


def shown_looks(history: History) -> list[Look]:
    """Return the looks that are drawn: the last, and others evenly before it."""
    every = math.ceil(len(history.looks) / MAX_LOOKS)
    return list(history.looks[::-1][::every][::-1])


def _limits(histories: Sequence[History]) -> tuple[float, float]:
    """Return the ends of the axis: all that is drawn but intervals before the last."""
    ends = [0.0]
    for history in histories:
        last = history.looks[-1]
        ends += [look.mean for look in history.looks]
        ends += [end for end in (last.low, last.high) if math.isfinite(end)]
        ends += [] if history.paper is None else [history.paper]
    return min(ends) - MARGIN, max(ends) + MARGIN


def _legend(claims: Sequence[DrawnClaim]) -> list[Line2D | Patch]:
    verdicts = {claim.judged.verdict for claim in claims}
    estimates = [
        Line2D([], [], color=colour, marker="o", markersize=4, label=verdict)
        for verdict, colour in COLOURS.items()
        if verdict in verdicts
    ]
    paper = Line2D([], [], color=PAPER_COLOUR, marker="D", lw=0, label="the paper's")
    has_paper = any(claim.history.paper is not None for claim in claims)
    band = Patch(color=COLOURS["no difference"], alpha=0.22, label="counts as none")
    return [*estimates, *[paper] * has_paper, band]
