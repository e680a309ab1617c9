"""Images as sequences of patches, in the official layout: pixels of a patch as (row, column, channel)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def patchify(images_BCHW: Float[Tensor, "B C H W"], patch_size: int) -> Float[Tensor, "B L P"]:
    """Cut into patches in row-major order; P = patch_size**2 * C.

    Raises ValueError where the patch does not divide the image.
    """
    batch, channels, height, width = images_BCHW.shape
    if height % patch_size or width % patch_size:
        raise ValueError(f"patch_size={patch_size} does not divide an image of {height} x {width} pixels")
    rows, cols = height // patch_size, width // patch_size
    cells = images_BCHW.reshape(batch, channels, rows, patch_size, cols, patch_size)
    return cells.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * cols, patch_size**2 * channels)


def unpatchify(patches_BLP: Float[Tensor, "B L P"], grid: tuple[int, int], channels: int) -> Float[Tensor, "B C H W"]:
    """The inverse of patchify for a grid of (rows, columns)."""
    batch, _, pixels = patches_BLP.shape
    side = round((pixels / channels) ** 0.5)
    cells = patches_BLP.reshape(batch, *grid, side, side, channels)
    return cells.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, grid[0] * side, grid[1] * side)


def gather(tokens_BLD: Float[Tensor, "B L D"], index_BV: Int[Tensor, "B V"]) -> Float[Tensor, "B V D"]:
    """The chosen tokens of each image, in the order of the index."""
    return torch.take_along_dim(tokens_BLD, index_BV[:, :, None], dim=1)
