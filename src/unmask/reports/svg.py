"""Matplotlib figures as SVG text, in the colours of the page that shows them."""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# stands for the colour of the page's own text, which replaces it in the SVG
PLACEHOLDER = "#010203"
# what comes before an identifier in an SVG
IDENTIFIER_PREFIX = re.compile(r'\bid="|href="#|url\(#')


@contextmanager
def text_style(colour: str, sizes: dict[str, float] | None = None) -> Iterator[None]:
    """Give texts and axes of figures that are made within this colour.

    sizes: of texts, in points, by matplotlib's names.
    """
    keys = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")
    colours = dict.fromkeys((*keys, "axes.edgecolor"), colour)
    with mpl.rc_context({**colours, **(sizes or {})}):
        yield


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


def inline_svg(
    name: str, draw: Callable[[], Figure | None], sizes: dict[str, float] | None = None
) -> str | None:
    """Return a figure for a page with others, whose text has the page's colour.

    name: of the figure on its page; identifiers begin with it. None where `draw` has
    nothing to show.
    """
    with text_style(PLACEHOLDER, sizes):
        figure = draw()
        svg = to_svg(figure) if figure else None
    if svg is None:
        return None
    unique = IDENTIFIER_PREFIX.sub(rf"\g<0>{name}-", svg)
    return unique.replace(PLACEHOLDER, "currentColor")


def open_frame(axes: Axes, **grid: Any) -> None:
    """Leave out the frame above and on the right; draw a grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.6, **grid)
    axes.set_axisbelow(True)
