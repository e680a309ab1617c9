"""Original, masked, reconstruction: the pictures everybody looks at first."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from unmask.mae import MAE
from unmask.masking import Masking
from unmask.patches import gather, patchify, unpatchify
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
    model: MAE, target: Pixel | NormalisedPixel | PatchPCA, images_BCHW: Float[Tensor, "B C H W"], masking: Masking,
    mean: tuple[float, ...], std: tuple[float, ...],
) -> Reconstruction:  # fmt: skip
    """Fill in what the masking hides; `images` are normalised by mean and std, the result is not."""
    encoder = model.encoder
    patches = patchify(images_BCHW, encoder.patch_size).float()
    pred = target.to_pixels(model(images_BCHW, masking), gather(patches, masking.visible_BV))
    index = masking.masked_BM[:, :, None].expand_as(pred)
    shift, scale = (torch.tensor(v, device=patches.device).view(1, -1, 1, 1) for v in (mean, std))

    def to_image(content: Float[Tensor, "B L P"]) -> Float[Tensor, "B C H W"]:
        return (unpatchify(content, encoder.grid, encoder.channels) * scale + shift).clamp(0, 1)

    grey = unpatchify(masking.hidden_BL[:, :, None].expand_as(patches).float(), encoder.grid, encoder.channels)
    original = to_image(patches)
    masked = torch.where(grey > 0, torch.full_like(original, GREY), original)
    return Reconstruction(original, masked, to_image(patches.scatter(1, index, pred)))


def to_tiles(images_BCHW: Float[Tensor, "B C H W"]) -> UInt8[np.ndarray, "B H W 3"]:
    """RGB tiles of any number of channels: one is grey, more than three show the first three."""
    channels = images_BCHW.shape[1]
    shown = images_BCHW[:, :3] if channels >= 3 else images_BCHW[:, :1].expand(-1, 3, -1, -1)
    return (shown * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def contact_sheet(result: Reconstruction, per_row: int = 4, zoom: int | None = None) -> Image.Image:
    """Triples [original | masked | reconstruction], `per_row` of them a row, small images enlarged."""
    triples = np.stack([to_tiles(part) for part in result], axis=1)
    count, _, height, width, _ = triples.shape
    zoom = zoom or max(1, 84 // max(height, width))
    triples = triples.repeat(zoom, axis=2).repeat(zoom, axis=3)
    height, width = height * zoom + GAP, width * zoom + GAP
    per_row = min(per_row, count)
    rows = -(-count // per_row)
    pitch = 3 * width + 4 * GAP
    sheet = np.full((rows * (height + GAP) + GAP, per_row * pitch, 3), 255, dtype=np.uint8)
    for i, triple in enumerate(triples):
        top, left = (i // per_row) * (height + GAP) + GAP, (i % per_row) * pitch + 2 * GAP
        for j, tile in enumerate(triple):
            sheet[top : top + height - GAP, left + j * width : left + (j + 1) * width - GAP] = tile
    return Image.fromarray(sheet)


def save_sheet(result: Reconstruction, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(result).save(path)
