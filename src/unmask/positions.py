"""Fixed two-dimensional sine-cosine positions (the official port's layout: columns in the first half)."""

import torch
from jaxtyping import Float
from torch import Tensor


def sincos_1d(width: int, index_L: Float[Tensor, "L"]) -> Float[Tensor, "L D"]:
    """Sines, then cosines, of frequencies 10000^(-k / (width / 2)), in float64."""
    frequencies = 10000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    angles = index_L.double()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def sincos_2d(width: int, grid: tuple[int, int]) -> Float[Tensor, "T D"]:
    """Positions of [class token, patches]: the class token's is zero; half the channels for x, half for y.

    Raises ValueError where the width cannot be split into two pairs of sines and cosines.
    """
    if width % 4:
        raise ValueError(f"2-D sine-cosine positions need a width that is a multiple of 4, not {width}")
    rows, cols = grid
    y_L = torch.arange(rows).repeat_interleave(cols).double()
    x_L = torch.arange(cols).repeat(rows).double()
    patches = torch.cat([sincos_1d(width // 2, x_L), sincos_1d(width // 2, y_L)], dim=1)
    return torch.cat([torch.zeros(1, width), patches.float()])
