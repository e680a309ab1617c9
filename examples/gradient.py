"""A target: how brightness changes within a patch, and not how bright it is.

python src/train.py target._target_=examples.gradient.Gradient
"""

import torch
from torch import Tensor


class Gradient:
    """Predict the differences of neighbouring pixels, to the right and downwards."""

    needs_whole_images = False
    # differences cannot be drawn
    to_pixels = None

    def __init__(self, patch_size: int, channels: int) -> None:
        # values of a patch are in the order row, column, channel
        self.shape = (patch_size, patch_size, channels)

    def num_outputs(self, patch_size: int, channels: int) -> int:
        return 2 * patch_size * (patch_size - 1) * channels

    def __call__(self, patches_BMP: Tensor) -> Tensor:
        patches = patches_BMP.float().unflatten(-1, self.shape)
        right, down = patches.diff(dim=-2), patches.diff(dim=-3)
        return torch.cat([right.flatten(2), down.flatten(2)], dim=-1)

    def loss(self, pred_BMT: Tensor, target_BMT: Tensor) -> Tensor:
        return (pred_BMT.float() - target_BMT).square().mean()
