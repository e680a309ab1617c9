"""Principal components of the training set's patches (MAE Table 1d, "PCA")."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.patches import patchify


class Basis(NamedTuple):
    """Orthonormal directions by falling variance.

    The sign of each is such that its largest entry is positive.
    """

    mean_P: Float[Tensor, "P"]
    # a column is a direction
    components_PP: Float[Tensor, "P P"]
    variance_P: Float[Tensor, "P"]


class PatchSums:
    """Sum up patches and their products in float64; no patch stays in memory."""

    def __init__(self, patch_dim: int) -> None:
        self.count = 0
        self.sum_P = torch.zeros(patch_dim, dtype=torch.float64)
        self.products_PP = torch.zeros(patch_dim, patch_dim, dtype=torch.float64)

    def add(self, images_BCHW: Float[Tensor, "B C H W"], patch_size: int) -> None:
        """Add all patches of the images."""
        patches_NP = patchify(images_BCHW, patch_size).flatten(0, 1).double().cpu()
        self.count += len(patches_NP)
        self.sum_P += patches_NP.sum(dim=0)
        self.products_PP += patches_NP.T @ patches_NP

    def compute_basis(self) -> Basis:
        """Return the eigenvectors of the patches' covariance.

        Raises ValueError where no patch was added.
        """
        if not self.count:
            raise ValueError(
                f"{self.count} patches were added; add() training images before the PCA"
            )
        mean_P = self.sum_P / self.count
        # Cov(x) = E[x x^T] - E[x] E[x]^T
        covariance_PP = self.products_PP / self.count - torch.outer(mean_P, mean_P)
        variance_P, columns_PP = torch.linalg.eigh(covariance_PP)
        # eigh sorts by rising variance
        columns_PP = columns_PP.flip(1)
        variance_P = variance_P.flip(0)
        # eigenvectors are unique up to their sign, which may differ by platform: fix it
        largest_index = columns_PP.abs().argmax(dim=0, keepdim=True)
        signs_1P = columns_PP.gather(0, largest_index).sign()
        return Basis(mean_P, columns_PP * signs_1P, variance_P.clamp(min=0))
