"""What one model answers: pictures with captions, and a line of text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from unmask.commands.studio import pictures
from unmask.commands.studio.attention import (
    attention_map,
    attention_weights,
    layer_tokens,
)
from unmask.commands.studio.filling import Filled
from unmask.encoder import AnyEncoder
from unmask.reconstructions import frame_tiles, label_columns

# pixels of the line above each model's pictures in a sheet
TITLE_HEIGHT = 22


@dataclass(frozen=True)
class Answer:
    """Hold a line of text, and pictures with their captions."""

    text: str
    tiles: tuple[tuple[pictures.Tile, str], ...] = ()


def answer_reconstruction(filled: Filled, leaks: bool) -> Answer:
    """Show original, masked, prediction, pasted and error, and say how large it is.

    leaks: the patches' true brightness and contrast were used, which is said.
    """
    share = 100 * filled.num_hidden / filled.num_patches
    text = (
        f"{filled.num_hidden} of {filled.num_patches} patches hidden ({share:.1f} %);"
        f" error on them {filled.root_mean_square:.4f} (root mean square, black to"
        " white is 1)"
    )
    if leaks:
        text += ". The true brightness and contrast of each patch leak the answer"
    parts = {
        "original": filled.result.original_BCHW,
        "masked": filled.result.masked_BCHW,
        "prediction": filled.prediction,
        "pasted": filled.result.pasted_BCHW,
    }
    tiles = [(pictures.to_tile(part), name) for name, part in parts.items()]
    return Answer(text, (*tiles, (pictures.error_tile(filled.error), "error")))


def answer_attention(
    encoder: AnyEncoder,
    image_BCHW: Float[Tensor, "1 C H W"],
    seen_BCHW: Float[Tensor, "1 C H W"],
    layer: int,
    head: int | None,
    query: int | None,
) -> Answer:
    """Show how a patch (None: the class token) attends in a layer, or in the last one.

    image, seen: a picture, normalised and in [0, 1]. head: from 1 on; None shows the
    mean, then all.
    """
    layer = min(layer, len(encoder.blocks))
    weights = attention_weights(encoder, image_BCHW, layer)
    heads = weights.shape[1]
    chosen = [None, *range(1, heads + 1)] if head is None else [min(head, heads)]
    tiles = []
    for each in chosen:
        shares = attention_map(weights, encoder.grid, each, query)
        name = "mean" if each is None else f"head {each}"
        caption = f"{name}: up to {100 * float(shares.max()):.1f} %"
        tiles.append((pictures.attention_tile(shares, seen_BCHW), caption))
    asks = "the class token" if query is None else f"patch {query + 1}"
    even = 100 / weights.shape[-1]
    return Answer(
        f"layer {layer} of {len(encoder.blocks)}: where {asks} attends"
        f" (evenly it would be {even:.1f} % a patch)",
        tuple(tiles),
    )


def answer_features(
    encoder: AnyEncoder,
    image_BCHW: Float[Tensor, "1 C H W"],
    seen_BCHW: Float[Tensor, "1 C H W"],
    layer: int,
) -> Answer:
    """Show the largest components of the patches' features after a layer as colours.

    image, seen: a picture, normalised and in [0, 1].
    """
    layer = min(layer, len(encoder.blocks))
    tokens_BLD = layer_tokens(encoder, image_BCHW, layer)
    colours = pictures.feature_colours(tokens_BLD[0], encoder.grid)
    side = seen_BCHW.shape[2] // encoder.grid[0]
    spread = colours.repeat_interleave(side, 2).repeat_interleave(side, 3)
    return Answer(
        f"layer {layer} of {len(encoder.blocks)}: the three largest components of"
        f" {tokens_BLD.shape[1]} patches' features as red, green and blue",
        (
            (pictures.to_tile(seen_BCHW), "original"),
            (pictures.to_tile(spread), "features"),
        ),
    )


def draw_sheet(names: Sequence[str], answers: Sequence[Answer]) -> Image.Image:
    """Draw the pictures of each answer in a row, below its name and text.

    Answers without pictures are left out. Raises ValueError where all are.
    """
    rows = [
        _titled_row(f"{name}: {answer.text}", answer)
        for name, answer in zip(names, answers, strict=True)
        if answer.tiles
    ]
    if not rows:
        raise ValueError(f"nothing to save: {names[0]} {answers[0].text}")
    size = max(row.width for row in rows), sum(row.height for row in rows)
    sheet = Image.new("RGB", size, "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _titled_row(title: str, answer: Answer) -> Image.Image:
    tiles = np.stack([tile for tile, _ in answer.tiles])
    row = label_columns(frame_tiles(tiles[None]), [label for _, label in answer.tiles])
    titled = Image.new("RGB", (row.width, row.height + TITLE_HEIGHT), "white")
    titled.paste(row, (0, TITLE_HEIGHT))
    place = (4, TITLE_HEIGHT / 2)
    ImageDraw.Draw(titled).text(place, title, fill="black", anchor="lm")
    return titled


def to_shares(
    image_BCHW: Float[Tensor, "1 C H W"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "1 C H W"]:
    """Undo the normalisation of a picture, into [0, 1]."""
    shift, scale = (torch.tensor(each).view(1, -1, 1, 1) for each in (mean, std))
    return (image_BCHW * scale + shift).clamp(0, 1)
