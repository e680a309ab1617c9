"""A mask sampler: hide every other patch, as on a chessboard.

python src/train.py masking._target_=examples.checkerboard.Checkerboard masking.start=1
"""

from dataclasses import dataclass

import torch

from unmask.masking import Masking, masking_from_scores
from unmask.randomness import Key


@dataclass(frozen=True)
class Checkerboard:
    """Hide every other patch, as the black fields of a chessboard."""

    grid: tuple[int, int]
    # of the config; a chessboard hides half of the patches, whatever it says
    mask_ratio: float
    # of the visible patches in the first row: column 0 or column 1
    start: int = 0

    def __call__(self, key: Key, ids_B: torch.Tensor, epoch: int) -> Masking:
        rows, cols = (torch.arange(n, device=ids_B.device) for n in self.grid)
        is_hidden_L = ((rows[:, None] + cols + self.start) % 2).flatten()
        scores_BL = is_hidden_L.float().expand(len(ids_B), -1)
        return masking_from_scores(scores_BL, int((is_hidden_L == 0).sum()))
