"""One model at several mask ratios, beside each other."""

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from unmask.mae import MAE
from unmask.masking import Masking, RandomMasking
from unmask.randomness import make_key
from unmask.reconstructions import GAP, reconstruct, to_tiles
from unmask.targets import NormalisedPixel, PatchPCA, Pixel

SMALLEST_TILE = 84  # pixels of a side; smaller images are enlarged


def ratio_sheet(
    model: MAE, target: Pixel | NormalisedPixel | PatchPCA, images_BCHW: Float[Tensor, "B C H W"],
    mean: tuple[float, ...], std: tuple[float, ...], ratios: tuple[float, ...] = (0.75, 0.85, 0.95), seed: int = 0,
) -> Image.Image:  # fmt: skip
    """A row for each image: the original, then for each ratio what is visible and the reconstruction.

    The patches come in one order for all ratios: what a ratio hides, a larger one hides too. Raises ValueError for a
    ratio that keeps no patch or all of them.
    """
    columns: list[Tensor] = []
    for ratio in ratios:
        masking = RandomMasking(model.encoder.grid, ratio)(make_key(seed, "picture"), torch.arange(len(images_BCHW)), 0)
        masking = Masking(*(part.to(images_BCHW.device) for part in masking))
        result = reconstruct(model, target, images_BCHW, masking, mean, std)
        columns += [result.masked_BCHW, result.pasted_BCHW] if columns else list(result)
    tiles_BNHWC = np.stack([to_tiles(column) for column in columns], axis=1)
    zoom = max(1, SMALLEST_TILE // max(tiles_BNHWC.shape[2:4]))
    tiles_BNHWC = tiles_BNHWC.repeat(zoom, axis=2).repeat(zoom, axis=3)
    framed = np.pad(tiles_BNHWC, ((0, 0), (0, 0), (GAP, GAP), (GAP, GAP), (0, 0)), constant_values=255)
    rows, count, height, width, _ = framed.shape
    return Image.fromarray(framed.transpose(0, 2, 1, 3, 4).reshape(rows * height, count * width, 3))
