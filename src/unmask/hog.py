"""Histograms of oriented gradients (Dalal & Triggs 2005) as a target of the decoder.

After MaskFeat (Wei et al. 2022): unsigned orientations, each pixel's magnitude goes
into a single bin, and each channel's histogram of a cell has length 1. Two things are
Dalal & Triggs's instead: gradients by [-1, 0, 1] (MaskFeat: Sobel) and cells of half a
patch (MaskFeat: 8 pixels, which is the same in a patch of 16).
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unmask.patches import patchify

# the eps of torch.nn.functional.normalize, which MaskFeat uses
EPS = 1e-12


def cells_per_side(patch_size: int) -> int:
    """Return 2 (2 x 2 cells a patch), or 1 for a patch that cannot be halved."""
    return 1 if patch_size % 2 else 2


def hog_dim(patch_size: int, channels: int, bins: int = 9) -> int:
    """Return how many numbers describe a patch."""
    return cells_per_side(patch_size) ** 2 * bins * channels


def gradients(
    images_BCHW: Float[Tensor, "B C H W"],
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B C H W"]]:
    """Return the differences [-1, 0, 1] to the right and downwards."""
    # reflected, so that the gradient across the image's border is zero
    padded = F.pad(images_BCHW, (1, 1, 1, 1), mode="reflect")
    right = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    return right, down


def hog(
    images_BCHW: Float[Tensor, "B C H W"], patch_size: int, bins: int = 9
) -> Float[Tensor, "B L T"]:
    """Return the histograms of each patch; T = hog_dim(...); in float32 always.

    A patch lists its cells in row-major order, each as (bin, channel). Bin k holds
    gradients at angles in [k, k + 1) * pi / bins from the x axis, where y points down.
    A cell without gradients is all zeros. Raises ValueError where the patch size does
    not divide the image.
    """
    height, width = images_BCHW.shape[2:]
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"patch_size={patch_size} does not divide an image of {height} x {width}"
            " pixels"
        )
    right, down = gradients(images_BCHW.float())
    side = cells_per_side(patch_size)
    cell = patch_size // side
    bin_BCHW = (torch.atan2(down, right) / math.pi * bins).floor() % bins
    magnitude_BCHW = (right.square() + down.square()).sqrt()
    bin_PBChw = _group_by_cell(bin_BCHW, cell)
    magnitude_PBChw = _group_by_cell(magnitude_BCHW, cell)
    # One sum for each bin: scattering would add in any order on a GPU, and a run could
    # not be repeated bit for bit.
    votes = [
        torch.where(bin_PBChw == k, magnitude_PBChw, 0).sum(dim=0) for k in range(bins)
    ]
    histogram_BKChw = torch.stack(votes, dim=1)
    length_B1Chw = histogram_BKChw.square().sum(dim=1, keepdim=True).sqrt()
    normalised_BKChw = histogram_BKChw / length_B1Chw.clamp(min=EPS)
    # the grid of cells is an image whose channels are (bin, channel)
    return patchify(normalised_BKChw.flatten(1, 2), side)


def _group_by_cell(
    values_BCHW: Float[Tensor, "B C H W"], cell: int
) -> Float[Tensor, "P B C h w"]:
    """Move the P = cell**2 pixels of each cell to the first axis, for fast sums."""
    cells = values_BCHW.unflatten(3, (-1, cell)).unflatten(2, (-1, cell))
    return cells.permute(3, 5, 0, 1, 2, 4).flatten(0, 1)
