"""Pictures of original, masked image and reconstruction (MAE Figs. 2 to 4)."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from unmask.mae import MAE
from unmask.masking import Masking, RandomMasking
from unmask.patches import gather_tokens, patchify, unpatchify
from unmask.randomness import make_key
from unmask.storage.atomic import atomic_write
from unmask.targets import AnyTarget, NormalisedPixel

# the shade of a hidden patch, between black and white
GREY = 0.5
# pixels between tiles
GAP = 2
# pixels of the line of labels above a sheet
LABEL_HEIGHT = 18
# pixels of a side; smaller images are enlarged
MIN_TILE = 84


class Reconstruction(NamedTuple):
    """Images in [0, 1], before and after the model.

    masked: hidden patches are grey. pasted: visible patches as they are, hidden ones as
    predicted.
    """

    original_BCHW: Float[Tensor, "B C H W"]
    masked_BCHW: Float[Tensor, "B C H W"]
    pasted_BCHW: Float[Tensor, "B C H W"]


@torch.no_grad()
def reconstruct(
    model: MAE,
    target: AnyTarget,
    images_BCHW: Float[Tensor, "B C H W"],
    masking: Masking,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    by_answer: bool = False,
) -> Reconstruction:
    """Predict the hidden patches and paste them into the images.

    The images are normalised by mean and std; the result is not. by_answer: undo the
    normalisation of patches by their own statistics, which leak the answer.
    """
    encoder = model.encoder
    patches = patchify(images_BCHW, encoder.patch_size).float()
    pred = model(images_BCHW, masking)
    if by_answer and isinstance(target, NormalisedPixel):
        hidden_BMP = gather_tokens(patches, masking.hidden_BM)
        pred = target.to_pixels_by_answer(pred, hidden_BMP)
    else:
        visible_BVP = gather_tokens(patches, masking.visible_BV)
        pred = target.to_pixels(pred, visible_BVP)
    index = masking.hidden_BM[:, :, None].expand_as(pred)
    shift, scale = (
        torch.tensor(v, device=patches.device).view(1, -1, 1, 1) for v in (mean, std)
    )

    def to_image(content: Float[Tensor, "B L P"]) -> Float[Tensor, "B C H W"]:
        normalised = unpatchify(content, encoder.grid, encoder.channels)
        return (normalised * scale + shift).clamp(0, 1)

    hidden = unpatchify(
        masking.hidden_BL[:, :, None].expand_as(patches).float(),
        encoder.grid,
        encoder.channels,
    )
    original = to_image(patches)
    masked = torch.where(hidden > 0, torch.full_like(original, GREY), original)
    return Reconstruction(original, masked, to_image(patches.scatter(1, index, pred)))


def to_tiles(images_BCHW: Float[Tensor, "B C H W"]) -> UInt8[np.ndarray, "B H W 3"]:
    """Turn images in [0, 1] into 8-bit RGB.

    Fewer than three channels: the first one in grey; more: the first three.
    """
    channels = images_BCHW.shape[1]
    if channels >= 3:
        shown = images_BCHW[:, :3]
    else:
        shown = images_BCHW[:, :1].expand(-1, 3, -1, -1)
    return (shown * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def contact_sheet(
    result: Reconstruction, per_row: int = 4, zoom: int | None = None
) -> Image.Image:
    """Draw triples [original | masked | reconstruction], `per_row` of them in a row.

    zoom: pixels of the sheet for each pixel of an image; by default small images are
    enlarged.
    """
    triples = np.stack([to_tiles(part) for part in result], axis=1)
    count, _, height, width, _ = triples.shape
    zoom = zoom or max(1, MIN_TILE // max(height, width))
    triples = triples.repeat(zoom, axis=2).repeat(zoom, axis=3)
    height, width = height * zoom, width * zoom
    # pixels from one tile, triple or row to the next
    tile_pitch = width + GAP
    triple_pitch = 3 * tile_pitch + 4 * GAP
    row_pitch = height + 2 * GAP
    per_row = min(per_row, count)
    rows = -(-count // per_row)
    shape = (rows * row_pitch + GAP, per_row * triple_pitch, 3)
    sheet = np.full(shape, 255, dtype=np.uint8)
    for i, triple in enumerate(triples):
        top = (i // per_row) * row_pitch + GAP
        left = (i % per_row) * triple_pitch + 2 * GAP
        for j, tile in enumerate(triple):
            start = left + j * tile_pitch
            sheet[top : top + height, start : start + width] = tile
    return Image.fromarray(sheet)


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Write a sheet to a file atomically, and make its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        sheet.save(file, format="PNG")


def ratio_sheet(
    model: MAE,
    target: AnyTarget,
    images_BCHW: Float[Tensor, "B C H W"],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    ratios: tuple[float, ...] = (0.75, 0.85, 0.95),
    seed: int = 0,
) -> Image.Image:
    """Draw a row for each image: the original, then masked and pasted at each ratio.

    The columns are labelled. A larger ratio hides all that a smaller one hides, and
    more (MAE Fig. 4). Raises
    ValueError for a ratio that keeps no patch or all of them.
    """
    columns: list[Tensor] = []
    labels = ["image"]
    key = make_key(seed, "picture")
    ids = torch.arange(len(images_BCHW))
    for ratio in ratios:
        # the same key for all ratios, so the patches come in the same order
        masking = RandomMasking(model.encoder.grid, ratio)(key, ids, 0)
        masking = Masking(*(part.to(images_BCHW.device) for part in masking))
        result = reconstruct(model, target, images_BCHW, masking, mean, std)
        columns += [result.masked_BCHW, result.pasted_BCHW] if columns else list(result)
        labels += [f"{100 * ratio:g} % hidden", "filled in"]
    tiles = np.stack([to_tiles(column) for column in columns], axis=1)
    return label_columns(frame_tiles(tiles), labels)


def label_columns(sheet: Image.Image, labels: list[str]) -> Image.Image:
    """Write a label above each of equally wide columns."""
    labelled = Image.new("RGB", (sheet.width, sheet.height + LABEL_HEIGHT), "white")
    labelled.paste(sheet, (0, LABEL_HEIGHT))
    draw = ImageDraw.Draw(labelled)
    pitch = sheet.width / len(labels)
    for i, label in enumerate(labels):
        centre = ((i + 0.5) * pitch, LABEL_HEIGHT / 2)
        draw.text(centre, label, fill="black", anchor="mm")
    return labelled


def frame_tiles(tiles_BNHWC: UInt8[np.ndarray, "B N H W 3"]) -> Image.Image:
    """Draw a row for each image of N tiles, all in white frames."""
    zoom = max(1, MIN_TILE // max(tiles_BNHWC.shape[2:4]))
    tiles_BNHWC = tiles_BNHWC.repeat(zoom, axis=2).repeat(zoom, axis=3)
    frame = (GAP, GAP)
    framed = np.pad(
        tiles_BNHWC, ((0, 0), (0, 0), frame, frame, (0, 0)), constant_values=255
    )
    rows, count, height, width, _ = framed.shape
    return Image.fromarray(
        framed.transpose(0, 2, 1, 3, 4).reshape(rows * height, count * width, 3)
    )
