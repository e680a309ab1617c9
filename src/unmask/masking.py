"""Random, block-wise and grid-wise masking (MAE Sec. 3, Fig. 6, Table 1f)."""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.randomness import Key, uniform

# BEiT's run script draws blocks of at least 16 of 196 patches
BEIT_MIN_BLOCK = 16 / 196
# the aspect ratio is log-uniform in [0.3, 1/0.3]
BEIT_ASPECT = 0.3
# after so many blocks in a row that do not fit, the rest is filled at random
MAX_FAILED_TRIES = 10


class Masking(NamedTuple):
    """Which patches of each image are visible and which are hidden.

    One polarity in the whole project: hidden = True means that the encoder does not
    see the patch.
    """

    # indices of the patches that the encoder sees
    visible_BV: Int[Tensor, "B V"]
    # indices of the hidden patches, which the decoder predicts
    hidden_BM: Int[Tensor, "B M"]
    # the same as a mask, in image order
    hidden_BL: Bool[Tensor, "B L"]


@runtime_checkable
class AnyMasking(Protocol):
    """A sampler, as the classes below and yours are: called with the ids of images.

    The same key, epoch and id give the same mask, whatever the other ids. All images
    have equally many visible patches.
    """

    def __call__(self, key: Key, ids_B: Int[Tensor, "B"], epoch: int) -> Masking: ...


def num_visible(num_patches: int, mask_ratio: float) -> int:
    """Return how many patches stay visible, rounded to the nearest number.

    Raises ValueError for a ratio that hides no patch or all of them.
    """
    # The official port truncates: at mask_ratio=0.9 it keeps 9 of 100 patches (binary
    # floats), and at 0.4 of 196 it keeps 117 where the nearest number is 118.
    kept = round(num_patches * (1 - mask_ratio))
    if not 0 < kept < num_patches:
        raise ValueError(
            f"mask_ratio={mask_ratio} keeps {kept} of {num_patches} patches; "
            f"pick a ratio that keeps between 1 and {num_patches - 1}"
        )
    return kept


def masking_from_scores(scores_BL: Float[Tensor, "B L"], num_keep: int) -> Masking:
    """Keep the `num_keep` patches of lowest score in each image and hide the others.

    Raises ValueError for NaN on the CPU, where a sampler of the user's is tried.
    """
    # on a GPU the question would wait for all that is under way
    if scores_BL.device.type == "cpu" and scores_BL.isnan().any():
        raise ValueError("scores are NaN, which no order has; divide by no zero")
    # stable: ties go to the lower index, on every device
    order_BL = scores_BL.argsort(dim=1, stable=True)
    visible_BV = order_BL[:, :num_keep]
    hidden_BL = torch.ones_like(scores_BL, dtype=torch.bool)
    hidden_BL.scatter_(1, visible_BV, False)
    return Masking(visible_BV, order_BL[:, num_keep:], hidden_BL)


def predict_part(
    masking: Masking, scores_BM: Float[Tensor, "B M"], count: int
) -> Masking:
    """Keep `count` of the hidden patches in hidden_BM, those of lowest score.

    The others stay hidden, and nobody predicts them (CrossMAE Sec. 3.3).
    """
    chosen_BN = scores_BM.argsort(dim=1, stable=True)[:, :count]
    return masking._replace(hidden_BM=masking.hidden_BM.gather(1, chosen_BN))


def random_masking(noise_BL: Float[Tensor, "B L"], mask_ratio: float) -> Masking:
    """Hide a uniformly random subset of each image's patches."""
    return masking_from_scores(noise_BL, num_visible(noise_BL.shape[1], mask_ratio))


def grid_masking(batch_size: int, grid: tuple[int, int]) -> Masking:
    """Keep one patch of each 2 x 2 cell, at the even row and even column.

    The same in every image (MAE Fig. 6, right).
    """
    rows, cols = torch.meshgrid(*map(torch.arange, grid), indexing="ij")
    off_lattice_L = ((rows % 2 == 1) | (cols % 2 == 1)).flatten().float()
    num_keep = int((off_lattice_L == 0).sum())
    return masking_from_scores(off_lattice_L.expand(batch_size, -1), num_keep)


@dataclass(frozen=True)
class RandomMasking:
    """Hide every patch with the same probability: the paper's default."""

    grid: tuple[int, int]
    mask_ratio: float

    def __call__(self, key: Key, ids_B: Int[Tensor, "B"], epoch: int) -> Masking:
        noise_BL = uniform(key, epoch, ids_B, math.prod(self.grid))
        return random_masking(noise_BL, self.mask_ratio)


@dataclass(frozen=True)
class GridMasking:
    """Hide the same lattice of patches in every image.

    The ratio follows from the grid: 3/4 where both sides are even.
    """

    grid: tuple[int, int]
    mask_ratio: float

    def __call__(self, key: Key, ids_B: Int[Tensor, "B"], epoch: int) -> Masking:
        masking = grid_masking(len(ids_B), self.grid)
        return Masking(*(part.to(ids_B.device) for part in masking))


@dataclass(frozen=True)
class BlockMasking:
    """Hide BEiT's rectangular blocks (Bao et al. 2021, Alg. 1), with an exact count.

    Random patches are added where the blocks alone hide too few. min_patches: the size
    of the smallest block; None scales BEiT's 16 of 196 to the grid.
    """

    grid: tuple[int, int]
    mask_ratio: float
    min_patches: int | None = None

    def __call__(self, key: Key, ids_B: Int[Tensor, "B"], epoch: int) -> Masking:
        # on the CPU: exp and sqrt may differ by device, and with them a block's size
        ids = ids_B.cpu()
        num_patches = math.prod(self.grid)
        num_keep = num_visible(num_patches, self.mask_ratio)
        hidden_BL = self._sample_blocks(key, ids, epoch, num_patches - num_keep)
        # visible patches in random order come first: the last of them fill up the count
        fill_key = Key(key.low ^ 1, key.high)
        scores_BL = uniform(fill_key, epoch, ids, num_patches) + hidden_BL
        masking = masking_from_scores(scores_BL, num_keep)
        return Masking(*(part.to(ids_B.device) for part in masking))

    def _sample_blocks(
        self, key: Key, ids_B: Int[Tensor, "B"], epoch: int, num_hidden: int
    ) -> Bool[Tensor, "B L"]:
        """Add blocks until `num_hidden` patches are hidden or too many tries fail."""
        batch = len(ids_B)
        # failures in a row end the search, so more tries are never needed
        rounds = MAX_FAILED_TRIES * num_hidden
        draws_BR4 = uniform(key, epoch, ids_B, 4 * rounds).double()
        draws_BR4 = draws_BR4.view(batch, rounds, 4)
        hidden_BL = torch.zeros(batch, math.prod(self.grid), dtype=torch.bool)
        failures_B = torch.zeros(batch, dtype=torch.long)
        for r in range(rounds):
            remaining_B = num_hidden - hidden_BL.sum(1)
            active_B = (remaining_B > 0) & (failures_B < MAX_FAILED_TRIES)
            if not active_B.any():
                break
            block_BL = self._sample_block(draws_BR4[:, r], remaining_B)
            added_B = (block_BL & ~hidden_BL).sum(1)
            fits_B = active_B & (added_B > 0) & (added_B <= remaining_B)
            hidden_BL |= block_BL & fits_B[:, None]
            failures_B = torch.where(fits_B, 0, failures_B + 1)
        return hidden_BL

    def _sample_block(
        self, draw_B4: Float[Tensor, "B 4"], remaining_B: Int[Tensor, "B"]
    ) -> Bool[Tensor, "B L"]:
        """Turn four numbers an image (area, aspect, top, left) into one rectangle.

        Empty where the rectangle is not smaller than the grid.
        """
        rows, cols = self.grid
        smallest = self.min_patches or max(1, round(BEIT_MIN_BLOCK * rows * cols))
        area_B = smallest + draw_B4[:, 0] * (remaining_B - smallest)
        aspect_B = torch.exp((2 * draw_B4[:, 1] - 1) * -math.log(BEIT_ASPECT))
        height_B = (area_B * aspect_B).sqrt().round()
        width_B = (area_B / aspect_B).sqrt().round()
        possible_B = (
            (height_B >= 1) & (width_B >= 1) & (height_B < rows) & (width_B < cols)
        )
        top_B = (draw_B4[:, 2] * (rows - height_B + 1)).floor()
        left_B = (draw_B4[:, 3] * (cols - width_B + 1)).floor()
        # the row and the column of each patch
        row_L = torch.arange(rows).repeat_interleave(cols)
        col_L = torch.arange(cols).repeat(rows)
        in_rows_BL = (row_L >= top_B[:, None]) & (row_L < (top_B + height_B)[:, None])
        in_cols_BL = (col_L >= left_B[:, None]) & (col_L < (left_B + width_B)[:, None])
        return in_rows_BL & in_cols_BL & possible_B[:, None]
