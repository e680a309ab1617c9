"""Which patches are hidden: random, block-wise and grid-wise sampling (MAE Sec. 3, Fig. 6, Table 1f)."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.randomness import Key, uniform

# BEiT's run script draws blocks of at least 16 of 196 patches
BEIT_MIN_BLOCK = 16 / 196
BEIT_ASPECT = 0.3  # log-uniform aspect in [0.3, 1/0.3]
TRIES = 10


class Masking(NamedTuple):
    """One polarity in the whole project: hidden = True means the encoder does not see the patch."""

    visible_BV: Int[Tensor, "B V"]  # indices of the patches the encoder sees
    masked_BM: Int[Tensor, "B M"]  # indices of the patches the decoder predicts
    hidden_BL: Bool[Tensor, "B L"]  # the same in image order


def num_visible(num_patches: int, mask_ratio: float) -> int:
    """How many patches stay visible: rounded to nearest.

    The official port truncates: at mask_ratio=0.9 it keeps 9 of 100 patches (binary floats), and at 0.4 of 196
    it keeps 117 where the nearest number is 118.
    """
    kept = round(num_patches * (1 - mask_ratio))
    if not 0 < kept < num_patches:
        raise ValueError(
            f"mask_ratio={mask_ratio} keeps {kept} of {num_patches} patches; "
            f"pick a ratio that keeps between 1 and {num_patches - 1}"
        )
    return kept


def from_scores(scores_BL: Float[Tensor, "B L"], kept: int) -> Masking:
    """Keep the `kept` patches of lowest score; ties go to the lower index, on every device."""
    order_BL = scores_BL.argsort(dim=1, stable=True)
    hidden_BL = torch.ones_like(scores_BL, dtype=torch.bool).scatter_(
        1, order_BL[:, :kept], False
    )
    return Masking(order_BL[:, :kept], order_BL[:, kept:], hidden_BL)


def random_masking(noise_BL: Float[Tensor, "B L"], mask_ratio: float) -> Masking:
    """Hide a uniformly random subset of each image's patches."""
    return from_scores(noise_BL, num_visible(noise_BL.shape[1], mask_ratio))


def grid_masking(batch: int, grid: tuple[int, int]) -> Masking:
    """Keep one patch of each 2 x 2 cell, the even row and even column, in every image (MAE Fig. 6, right)."""
    rows, cols = torch.meshgrid(*map(torch.arange, grid), indexing="ij")
    off_lattice_L = ((rows % 2 == 1) | (cols % 2 == 1)).flatten().float()
    return from_scores(off_lattice_L.expand(batch, -1), int((off_lattice_L == 0).sum()))


@dataclass(frozen=True)
class RandomMasking:
    """The paper's default: every patch is as likely to be hidden as any other."""

    grid: tuple[int, int]
    mask_ratio: float

    def __call__(self, key: Key, ids_B: Int[Tensor, "B"], epoch: int) -> Masking:
        return random_masking(
            uniform(key, epoch, ids_B, math.prod(self.grid)), self.mask_ratio
        )


@dataclass(frozen=True)
class GridMasking:
    """Deterministic: the ratio follows from the grid, 3/4 where both sides are even."""

    grid: tuple[int, int]
    mask_ratio: float

    def __call__(self, key: Key, ids_B: Int[Tensor, "B"], epoch: int) -> Masking:
        masking = grid_masking(len(ids_B), self.grid)
        return Masking(*(part.to(ids_B.device) for part in masking))


@dataclass(frozen=True)
class BlockMasking:
    """BEiT's blocks with an exact count: what the blocks leave short is topped up with random patches.

    min_patches: the smallest block; None scales BEiT's 16 of 196 to the grid.
    """

    grid: tuple[int, int]
    mask_ratio: float
    min_patches: int | None = None

    def __call__(self, key: Key, ids_B: Int[Tensor, "B"], epoch: int) -> Masking:
        # exp and sqrt may differ by device, and with them a block's size
        ids = ids_B.cpu()
        num_patches = math.prod(self.grid)
        target = num_patches - num_visible(num_patches, self.mask_ratio)
        hidden_BL = self._blocks(key, ids, epoch, target)
        # visible patches in random order first: the last of them top up the blocks
        scores_BL = (
            uniform(Key(key.low ^ 1, key.high), epoch, ids, num_patches) + hidden_BL
        )
        masking = from_scores(scores_BL, num_patches - target)
        return Masking(*(part.to(ids_B.device) for part in masking))

    def _blocks(
        self, key: Key, ids_B: Int[Tensor, "B"], epoch: int, target: int
    ) -> Bool[Tensor, "B L"]:
        """Add blocks until `target` patches are hidden or ten tries in a row fail."""
        rounds = TRIES * target
        draws_BR4 = (
            uniform(key, epoch, ids_B, 4 * rounds).double().view(len(ids_B), rounds, 4)
        )
        hidden_BL = torch.zeros(len(ids_B), math.prod(self.grid), dtype=torch.bool)
        failures_B = torch.zeros(len(ids_B), dtype=torch.long)
        for r in range(rounds):
            remaining_B = target - hidden_BL.sum(1)
            active_B = (remaining_B > 0) & (failures_B < TRIES)
            if not active_B.any():
                break
            block_BL = self._block(draws_BR4[:, r], remaining_B)
            added_B = (block_BL & ~hidden_BL).sum(1)
            fits_B = active_B & (added_B > 0) & (added_B <= remaining_B)
            hidden_BL |= block_BL & fits_B[:, None]
            failures_B = torch.where(fits_B, 0, failures_B + 1)
        return hidden_BL

    def _block(
        self, draw_B4: Float[Tensor, "B 4"], remaining_B: Int[Tensor, "B"]
    ) -> Bool[Tensor, "B L"]:
        """One rectangle an image: area, aspect, top, left; empty where it is not smaller than the grid."""
        rows, cols = self.grid
        smallest = self.min_patches or max(1, round(BEIT_MIN_BLOCK * rows * cols))
        area_B = smallest + draw_B4[:, 0] * (remaining_B - smallest)
        aspect_B = torch.exp((2 * draw_B4[:, 1] - 1) * -math.log(BEIT_ASPECT))
        height_B, width_B = (
            (area_B * aspect_B).sqrt().round(),
            (area_B / aspect_B).sqrt().round(),
        )
        possible_B = (
            (height_B >= 1) & (width_B >= 1) & (height_B < rows) & (width_B < cols)
        )
        top_B = (draw_B4[:, 2] * (rows - height_B + 1)).floor()
        left_B = (draw_B4[:, 3] * (cols - width_B + 1)).floor()
        row_L, col_L = (
            torch.arange(rows).repeat_interleave(cols),
            torch.arange(cols).repeat(rows),
        )
        in_rows_BL = (row_L >= top_B[:, None]) & (row_L < (top_B + height_B)[:, None])
        in_cols_BL = (col_L >= left_B[:, None]) & (col_L < (left_B + width_B)[:, None])
        return in_rows_BL & in_cols_BL & possible_B[:, None]
