"""Images as sequences of patches, and the positions of the patches.

The layout is the official port's: the values of a patch in the order
(row, column, channel).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def patchify(
    images_BCHW: Float[Tensor, "B C H W"], patch_size: int
) -> Float[Tensor, "B L P"]:
    """Cut images into patches in row-major order; P = patch_size**2 * C.

    Raises ValueError where the patch size does not divide the image.
    """
    batch, channels, height, width = images_BCHW.shape
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"patch_size={patch_size} does not divide an image of {height} x {width}"
            " pixels"
        )
    rows = height // patch_size
    cols = width // patch_size
    cells = images_BCHW.reshape(batch, channels, rows, patch_size, cols, patch_size)
    # (B, C, rows, p, cols, p) -> (B, rows, cols, p, p, C)
    return cells.permute(0, 2, 4, 3, 5, 1).reshape(
        batch, rows * cols, patch_size**2 * channels
    )


def unpatchify(
    patches_BLP: Float[Tensor, "B L P"], grid: tuple[int, int], channels: int
) -> Float[Tensor, "B C H W"]:
    """Put patches back together: the inverse of patchify on a (rows, columns) grid."""
    batch, _, values = patches_BLP.shape
    side = round((values / channels) ** 0.5)
    cells = patches_BLP.reshape(batch, *grid, side, side, channels)
    return cells.permute(0, 5, 1, 3, 2, 4).reshape(
        batch, channels, grid[0] * side, grid[1] * side
    )


def gather_tokens(
    tokens_BLD: Float[Tensor, "B L D"], index_BV: Int[Tensor, "B V"]
) -> Float[Tensor, "B V D"]:
    """Return the chosen tokens of each image, in the order of the index."""
    return torch.take_along_dim(tokens_BLD, index_BV[:, :, None], dim=1)


def sincos_1d(width: int, index_L: Float[Tensor, "L"]) -> Float[Tensor, "L D"]:
    """Return sines, then cosines, at frequencies 10000^(-k / (width / 2)), in float64.

    Vaswani et al. 2017, Sec. 3.5, but with the sines before the cosines.
    """
    frequencies = 10000.0 ** (
        -torch.arange(width // 2, dtype=torch.float64) / (width / 2)
    )
    angles = index_L.double()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def sincos_2d(
    width: int, grid: tuple[int, int], class_tokens: int = 1
) -> Float[Tensor, "T D"]:
    """Return the fixed positions of [class tokens, patches] on a (rows, columns) grid.

    The first half of the channels encodes the column, the second half the row; a
    class token's position is zero. Raises ValueError where the width is no multiple
    of 4: sines and cosines of two coordinates.
    """
    if width % 4:
        raise ValueError(
            "2-D sine-cosine positions need a width that is a multiple of 4, not"
            f" {width}"
        )
    rows, cols = grid
    y_L = torch.arange(rows).repeat_interleave(cols).double()
    x_L = torch.arange(cols).repeat(rows).double()
    # the official port's order; timm stacks (sin y, sin x, cos y, cos x)
    patches = torch.cat([sincos_1d(width // 2, x_L), sincos_1d(width // 2, y_L)], dim=1)
    return torch.cat([torch.zeros(class_tokens, width), patches.float()])
