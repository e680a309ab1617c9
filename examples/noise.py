"""An augmentation: noise on each pixel, another one for each view of an image.

python src/train.py augment._target_=examples.noise.Noise augment.strength=0.1
"""

import torch
from torch import Tensor

from unmask.randomness import Key, uniform


class Noise:
    """Add uniform noise of up to `strength` of the range, up and down."""

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def __call__(
        self, images_BCHW: Tensor, key: Key, ids_B: Tensor, epoch: int
    ) -> Tensor:
        # images are bytes; where files have more bits they are shares of the range
        largest = 255 if images_BCHW.dtype == torch.uint8 else 1
        drawn = uniform(key, epoch, ids_B, images_BCHW[0].numel())
        noise_BCHW = (2 * drawn.view(images_BCHW.shape) - 1) * self.strength * largest
        changed_BCHW = (images_BCHW + noise_BCHW).clamp(0, largest)
        # .to cuts bytes off: without it all images would become darker
        rounded_BCHW = changed_BCHW.round() if largest == 255 else changed_BCHW
        return rounded_BCHW.to(images_BCHW.dtype)
