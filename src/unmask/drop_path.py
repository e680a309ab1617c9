"""Stochastic depth (Huang et al. 2016, arXiv 1603.09382), reproducible for each image.

Which branches an image drops is a function of (seed, epoch, sample). timm draws from
the device's generator, which makes an image depend on its neighbours in the batch.
"""

from typing import cast

import torch
from jaxtyping import Float, Int
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from unmask.randomness import Key, uniform


class DropPath(nn.Module):
    """Drop a residual branch for some images of a training batch.

    The other images' branch is divided by (1 - rate), so that its mean is unchanged.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        # one number in [0, 1) an image; sample_drop_path sets it before each step
        self.uniform_B: Tensor | None = None

    def forward(self, branch_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        scale_B = self.branch_scale(branch_BTD.dtype)
        return branch_BTD if scale_B is None else branch_BTD * scale_B[:, None, None]

    def branch_scale(self, dtype: torch.dtype) -> Float[Tensor, "B"] | None:
        """Return what each image's branch is multiplied by; None in evaluation."""
        if not self.training:
            return None
        assert self.uniform_B is not None
        return (self.uniform_B >= self.rate).to(dtype) / (1 - self.rate)


def linear_rates(depth: int, last_rate: float) -> list[float]:
    """Return each block's rate, linear from 0 to `last_rate`."""
    return [last_rate * i / max(1, depth - 1) for i in range(depth)]


def install_drop_path(blocks: nn.ModuleList, rates: list[float]) -> None:
    """Put a DropPath with the block's rate on both branches of each block."""
    for block, rate in zip(blocks, rates, strict=True):
        # a block of rate 0 keeps timm's identity
        if rate:
            block = cast(Block, block)
            block.drop_path1 = DropPath(rate)
            block.drop_path2 = DropPath(rate)


def sample_drop_path(
    model: nn.Module, key: Key, epoch: int, ids_B: Int[Tensor, "B"]
) -> None:
    """Decide for every branch of the model which of these images drop it."""
    branches = [module for module in model.modules() if isinstance(module, DropPath)]
    if not branches:
        return
    uniform_BN = uniform(key, epoch, ids_B, len(branches))
    for branch, uniform_B in zip(branches, uniform_BN.unbind(1), strict=True):
        branch.uniform_B = uniform_B
