"""An answer as HTML: a line of text, and pictures with captions that wrap."""

import base64
import io
from collections.abc import Iterable
from html import escape
from pathlib import Path

from PIL import Image

from unmask.commands.studio.answers import Answer
from unmask.commands.studio.pictures import Tile

# pictures keep their pixels; two stand side by side on a telephone
STYLE = """
.patches { position: relative; max-width: 448px; user-select: none; }
.patches img { width: 100%; display: block; image-rendering: pixelated; }
.patches div { position: absolute; inset: 0; display: grid; gap: 0;
  grid-auto-rows: 1fr; margin: 0; }
.patches button { border: 1px solid #8884; background: none; cursor: crosshair;
  min-width: 0; margin: 0; padding: 0; border-radius: 0; }
.patches button[aria-pressed="true"] { background: rgb(214 40 110 / 80%); }
.patches.one { max-width: 240px; }
.patches.one button[aria-pressed="true"] { background: rgb(214 40 110 / 50%); }
.patches button:focus-visible { outline: 3px solid #0af; z-index: 1; }
.patches.many { touch-action: none; }
.answer > p { margin: 0.8em 0 0.5em; }
.tiles { display: grid; gap: 0.7em;
  grid-template-columns: repeat(auto-fill, minmax(min(150px, 46%), 1fr)); }
.tiles figure { margin: 0; max-width: 336px; }
.tiles img { width: 100%; image-rendering: pixelated; }
.made figure { margin: 0.8em 0; }
.made img { max-width: 100%; }
.tiles figcaption { font-size: 0.85em; text-align: center; }
"""


# filled in by the browser: value has a 0 or a 1 for each patch
PATCHES = """<div class="patches ${kind}"><img alt="" src="${picture}">
<div role="group" aria-label="${label}"
 style="grid-template-columns: repeat(${columns}, 1fr)">${[...value].map((mark, i) =>
 `<button type="button" tabindex="${i ? -1 : 0}" aria-pressed="${mark === "1"}"
 aria-label="row ${Math.floor(i / columns) + 1}, column ${i % columns + 1}"></button>`
).join("")}</div></div>"""
PATCHES_SCRIPT = Path(__file__).with_name("patches.js").read_text()


def answer_html(name: str, answer: Answer) -> str:
    """Return a model's answer; a screen reader says its text whenever it changes."""
    figures = "".join(_figure(name, tile, caption) for tile, caption in answer.tiles)
    return (
        f'<div class="answer"><p aria-live="polite"><b>{escape(name)}</b>:'
        f' {escape(answer.text)}</p><div class="tiles">{figures}</div></div>'
    )


def files_html(paths: Iterable[Path]) -> str:
    """Return pictures that were made, each with a link that saves it."""
    figures = []
    for path in paths:
        address = _address(path.read_bytes(), path.suffix.lstrip("."))
        name = escape(path.name)
        figures.append(
            f'<figure><img alt="{name}" src="{address}"><figcaption>'
            f'<a download="{name}" href="{address}">Save {name}</a></figcaption>'
            "</figure>"
        )
    return f'<div class="made">{"".join(figures)}</div>'


def _figure(name: str, tile: Tile, caption: str) -> str:
    described = escape(f"{caption}, by {name}")
    return (
        f'<figure><img alt="{described}" src="{tile_address(tile)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def tile_address(tile: Tile) -> str:
    """Return an address that holds a tile as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(tile).save(buffer, format="PNG")
    return _address(buffer.getvalue(), "png")


def _address(content: bytes, kind: str) -> str:
    """Return an address that holds the picture itself: nothing is fetched."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
