"""Histograms of oriented gradients (Dalal & Triggs 2005) as what the decoder predicts (MaskFeat, Wei et al. 2022).

As in MaskFeat: unsigned orientations, every pixel's magnitude goes whole into one bin, each channel's histogram of a
cell has length 1. MaskFeat's code takes Sobel gradients and cells of 8 pixels; here they are Dalal & Triggs's
[-1, 0, 1] and half a patch, which are 8 pixels in a patch of 16.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unmask.patches import patchify

EPS = 1e-12  # torch.nn.functional.normalize's, which MaskFeat's code takes


def cells_per_side(patch_size: int) -> int:
    """2 x 2 cells a patch, one where a patch has no half."""
    return 1 if patch_size % 2 else 2


def hog_dim(patch_size: int, channels: int, bins: int = 9) -> int:
    """Numbers per patch."""
    return cells_per_side(patch_size) ** 2 * bins * channels


def gradients(
    images_BCHW: Float[Tensor, "B C H W"],
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B C H W"]]:
    """Differences to the right and downwards, [-1, 0, 1] on the reflected image: zero across its border."""
    wide = F.pad(images_BCHW, (1, 1, 1, 1), mode="reflect")
    right = wide[:, :, 1:-1, 2:] - wide[:, :, 1:-1, :-2]
    down = wide[:, :, 2:, 1:-1] - wide[:, :, :-2, 1:-1]
    return right, down


def hog(
    images_BCHW: Float[Tensor, "B C H W"], patch_size: int, bins: int = 9
) -> Float[Tensor, "B L T"]:
    """A patch's cells in row-major order, each (bin, channel); T = hog_dim(...); float32 whatever the autocast.

    Bin k holds gradients at angles in [k, k + 1) * pi / bins from the x axis (to the right, then downwards).
    A cell without gradients is all zeros. Raises ValueError where the patch does not divide the image.
    """
    height, width = images_BCHW.shape[2:]
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"patch_size={patch_size} does not divide an image of {height} x {width}"
            " pixels"
        )
    right, down = gradients(images_BCHW.float())
    side = cells_per_side(patch_size)
    bin_PBChw = _by_cell(
        (torch.atan2(down, right) / math.pi * bins).floor() % bins, patch_size // side
    )
    magnitude_PBChw = _by_cell(
        (right.square() + down.square()).sqrt(), patch_size // side
    )
    # one sum per bin: scattering would add in any order on a GPU, and a run could not
    # be repeated bit for bit
    votes = [
        torch.where(bin_PBChw == k, magnitude_PBChw, 0).sum(dim=0) for k in range(bins)
    ]
    histogram_BKChw = torch.stack(votes, dim=1)
    length_B1Chw = histogram_BKChw.square().sum(dim=1, keepdim=True).sqrt()
    return patchify((histogram_BKChw / length_B1Chw.clamp(min=EPS)).flatten(1, 2), side)


def _by_cell(
    values_BCHW: Float[Tensor, "B C H W"], cell: int
) -> Float[Tensor, "P B C h w"]:
    """The P = cell**2 pixels of each cell, pixels first: sums over them are then quick."""
    cells = values_BCHW.unflatten(3, (-1, cell)).unflatten(2, (-1, cell))
    return cells.permute(3, 5, 0, 1, 2, 4).flatten(0, 1)
