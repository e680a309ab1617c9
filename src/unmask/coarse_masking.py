"""Masks of squares of patches: Pixio's granularity, and SimMIM's mask units.

Pixio (Yang et al. 2025, arXiv 2512.15715; `mask_grid` of its code) hides squares of 4 x
4 patches, SimMIM (Xie et al. 2022, arXiv 2111.09886, Sec. 3.2) squares of 32 pixels.
"""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from unmask.masking import Masking, masking_from_scores, num_visible
from unmask.randomness import Key, uniform


def coarse_masking(
    noise_BU: Float[Tensor, "B U"],
    grid: tuple[int, int],
    block: int,
    mask_ratio: float,
) -> Masking:
    """Hide a random subset of squares of block x block patches in each image.

    noise: one number a square, in row-major order; those of lowest noise stay visible.
    Raises ValueError where a square does not divide the grid.
    """
    rows, cols = grid
    if rows % block or cols % block:
        raise ValueError(f"block={block} does not divide a grid of {rows} x {cols}")
    # ranks: two squares of equal noise would share what stays visible
    rank_BU = noise_BU.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    rank_BRC = rank_BU.view(-1, rows // block, cols // block)
    rank_BRC = rank_BRC.repeat_interleave(block, 1).repeat_interleave(block, 2)
    kept = num_visible(noise_BU.shape[1], mask_ratio) * block**2
    return masking_from_scores(rank_BRC.flatten(1).float(), kept)


@dataclass(frozen=True)
class CoarseMasking:
    """Hide squares of block x block patches with the same probability.

    mask_ratio: the share of squares that is hidden, rounded to the nearest number (both
    papers' code rounds what is hidden up).
    """

    grid: tuple[int, int]
    mask_ratio: float
    block: int

    def __call__(self, key: Key, ids_B: Int[Tensor, "B"], epoch: int) -> Masking:
        rows, cols = self.grid
        squares = (rows // self.block) * (cols // self.block)
        noise_BU = uniform(key, epoch, ids_B, squares)
        return coarse_masking(noise_BU, self.grid, self.block, self.mask_ratio)
