"""Stochastic depth (Huang et al. 2016, arXiv 1603.09382) whose coins are a function of (seed, epoch, sample).

timm's draws from the device's generator: the coins of an image would depend on its neighbours in the batch.
"""

from typing import cast

from jaxtyping import Float, Int
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from unmask.randomness import Key, uniform


class DropPath(nn.Module):
    """Drops a residual branch for some images of a training batch and scales it up for the others."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        # uniform, one an image, set by `toss` before each training step
        self.drawn_B: Tensor | None = None

    def forward(self, branch_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        if not self.training:
            return branch_BTD
        assert self.drawn_B is not None
        kept_B = (self.drawn_B >= self.rate).to(branch_BTD.dtype) / (1 - self.rate)
        return branch_BTD * kept_B[:, None, None]


def linear_rates(depth: int, last: float) -> list[float]:
    """The rate of each block: linear from 0 at the first to `last` at the last."""
    return [last * i / max(1, depth - 1) for i in range(depth)]


def install_drop_path(blocks: nn.ModuleList, per_block: list[float]) -> None:
    """Give both branches of each block its rate; a block of rate 0 keeps timm's identity."""
    for block, rate in zip(blocks, per_block, strict=True):
        if rate:
            cast(Block, block).drop_path1, cast(Block, block).drop_path2 = (
                DropPath(rate),
                DropPath(rate),
            )


def sample_drop_path(
    model: nn.Module, key: Key, epoch: int, ids_B: Int[Tensor, "B"]
) -> None:
    """New coins for every branch of the model, for these images in this epoch."""
    branches = [module for module in model.modules() if isinstance(module, DropPath)]
    if branches:
        drawn_BN = uniform(key, epoch, ids_B, len(branches))
        for branch, drawn_B in zip(branches, drawn_BN.unbind(1), strict=True):
            branch.drawn_B = drawn_B
