"""Principal components of patches, from sums over the training set: no patch is kept (MAE Table 1d, "PCA")."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.patches import patchify


class Basis(NamedTuple):
    """Orthonormal directions by falling variance; of each, its largest entry is positive."""

    mean_P: Float[Tensor, "P"]
    components_PP: Float[Tensor, "P P"]  # a column a direction
    variance_P: Float[Tensor, "P"]


class PatchSums:
    """Count, sum and products of all patches seen so far, in float64: exact to rounding in any order of batches."""

    def __init__(self, pixels: int) -> None:
        self.count = 0
        self.sum_P = torch.zeros(pixels, dtype=torch.float64)
        self.products_PP = torch.zeros(pixels, pixels, dtype=torch.float64)

    def add(self, images_BCHW: Float[Tensor, "B C H W"], patch_size: int) -> None:
        patches_NP = patchify(images_BCHW, patch_size).flatten(0, 1).double().cpu()
        self.count += len(patches_NP)
        self.sum_P += patches_NP.sum(dim=0)
        self.products_PP += patches_NP.T @ patches_NP

    def basis(self) -> Basis:
        """Raises ValueError before anything was added."""
        if not self.count:
            raise ValueError("a PCA of no patches: add training images first")
        mean_P = self.sum_P / self.count
        covariance_PP = self.products_PP / self.count - torch.outer(mean_P, mean_P)
        variance_P, columns_PP = torch.linalg.eigh(covariance_PP)
        columns_PP = columns_PP.flip(1)
        largest_P = columns_PP.gather(0, columns_PP.abs().argmax(dim=0, keepdim=True))
        return Basis(
            mean_P, columns_PP * largest_P.sign(), variance_P.flip(0).clamp(min=0)
        )
