"""Original, masked, reconstruction: the pictures everybody looks at first."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from unmask.mae import MAE
from unmask.masking import Masking, RandomMasking
from unmask.patches import gather, patchify, unpatchify
from unmask.randomness import make_key
from unmask.targets import NormalisedPixel, PatchPCA, Pixel

GREY = 0.5  # what stands for a hidden patch, between black and white
GAP = 2  # pixels between tiles


class Reconstruction(NamedTuple):
    """Images in [0, 1]; pasted = visible patches as they are, hidden ones as predicted."""

    original_BCHW: Float[Tensor, "B C H W"]
    masked_BCHW: Float[Tensor, "B C H W"]
    pasted_BCHW: Float[Tensor, "B C H W"]


@torch.no_grad()
def reconstruct(
    model: MAE,
    target: Pixel | NormalisedPixel | PatchPCA,
    images_BCHW: Float[Tensor, "B C H W"],
    masking: Masking,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Reconstruction:
    """Fill in what the masking hides; `images` are normalised by mean and std, the result is not."""
    encoder = model.encoder
    patches = patchify(images_BCHW, encoder.patch_size).float()
    pred = target.to_pixels(
        model(images_BCHW, masking), gather(patches, masking.visible_BV)
    )
    index = masking.masked_BM[:, :, None].expand_as(pred)
    shift, scale = (
        torch.tensor(v, device=patches.device).view(1, -1, 1, 1) for v in (mean, std)
    )

    def to_image(content: Float[Tensor, "B L P"]) -> Float[Tensor, "B C H W"]:
        return (
            unpatchify(content, encoder.grid, encoder.channels) * scale + shift
        ).clamp(0, 1)

    grey = unpatchify(
        masking.hidden_BL[:, :, None].expand_as(patches).float(),
        encoder.grid,
        encoder.channels,
    )
    original = to_image(patches)
    masked = torch.where(grey > 0, torch.full_like(original, GREY), original)
    return Reconstruction(original, masked, to_image(patches.scatter(1, index, pred)))


def to_tiles(images_BCHW: Float[Tensor, "B C H W"]) -> UInt8[np.ndarray, "B H W 3"]:
    """RGB tiles of any number of channels: one is grey, more than three show the first three."""
    channels = images_BCHW.shape[1]
    shown = (
        images_BCHW[:, :3]
        if channels >= 3
        else images_BCHW[:, :1].expand(-1, 3, -1, -1)
    )
    return (shown * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def contact_sheet(
    result: Reconstruction, per_row: int = 4, zoom: int | None = None
) -> Image.Image:
    """Triples [original | masked | reconstruction], `per_row` of them a row, small images enlarged."""
    triples = np.stack([to_tiles(part) for part in result], axis=1)
    count, _, height, width, _ = triples.shape
    zoom = zoom or max(1, 84 // max(height, width))
    triples = triples.repeat(zoom, axis=2).repeat(zoom, axis=3)
    height, width = height * zoom + GAP, width * zoom + GAP
    per_row = min(per_row, count)
    rows = -(-count // per_row)
    pitch = 3 * width + 4 * GAP
    sheet = np.full(
        (rows * (height + GAP) + GAP, per_row * pitch, 3), 255, dtype=np.uint8
    )
    for i, triple in enumerate(triples):
        top, left = (
            (i // per_row) * (height + GAP) + GAP,
            (i % per_row) * pitch + 2 * GAP,
        )
        for j, tile in enumerate(triple):
            sheet[
                top : top + height - GAP,
                left + j * width : left + (j + 1) * width - GAP,
            ] = tile
    return Image.fromarray(sheet)


def save_sheet(result: Reconstruction, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(result).save(path)


SMALLEST_TILE = 84  # pixels of a side; smaller images are enlarged


def ratio_sheet(
    model: MAE,
    target: Pixel | NormalisedPixel | PatchPCA,
    images_BCHW: Float[Tensor, "B C H W"],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    ratios: tuple[float, ...] = (0.75, 0.85, 0.95),
    seed: int = 0,
) -> Image.Image:
    """A row for each image: the original, then for each ratio what is visible and the reconstruction.

    The patches come in one order for all ratios: what a ratio hides, a larger one hides too. Raises ValueError for a
    ratio that keeps no patch or all of them.
    """
    columns: list[Tensor] = []
    for ratio in ratios:
        masking = RandomMasking(model.encoder.grid, ratio)(
            make_key(seed, "picture"), torch.arange(len(images_BCHW)), 0
        )
        masking = Masking(*(part.to(images_BCHW.device) for part in masking))
        result = reconstruct(model, target, images_BCHW, masking, mean, std)
        columns += [result.masked_BCHW, result.pasted_BCHW] if columns else list(result)
    tiles_BNHWC = np.stack([to_tiles(column) for column in columns], axis=1)
    zoom = max(1, SMALLEST_TILE // max(tiles_BNHWC.shape[2:4]))
    tiles_BNHWC = tiles_BNHWC.repeat(zoom, axis=2).repeat(zoom, axis=3)
    framed = np.pad(
        tiles_BNHWC,
        ((0, 0), (0, 0), (GAP, GAP), (GAP, GAP), (0, 0)),
        constant_values=255,
    )
    rows, count, height, width, _ = framed.shape
    return Image.fromarray(
        framed.transpose(0, 2, 1, 3, 4).reshape(rows * height, count * width, 3)
    )
