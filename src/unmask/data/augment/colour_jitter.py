"""Colour jitter (MAE Table 1e): random brightness, contrast and saturation.

The three come in a random order. The paper publishes no strength; BEiT's code uses 0.4
for each of the three. The arithmetic is torchvision's.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.transforms.v2.functional import (
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
)

from unmask.data.images.tensors import PixelBatch
from unmask.randomness import Key, uniform

OPERATIONS = (adjust_brightness, adjust_contrast, adjust_saturation)


@dataclass(frozen=True)
class ColourJitter:
    """Change batches of grey or RGB images, after the crop.

    Saturation leaves grey images unchanged.
    """

    strength: float
    key: Key

    def __call__(
        self, images_BCHW: PixelBatch, epoch: int, ids_B: Int[Tensor, "B"]
    ) -> PixelBatch:
        channels = images_BCHW.shape[1]
        if channels not in (1, 3):
            raise ValueError(
                f"colour jitter cannot change images of {channels} channels, only of 1"
                " (grey) or 3 (RGB); set augment.jitter=0"
            )
        factors_B3, order_B3 = self.draw(epoch, ids_B)
        changed = []
        for image_CHW, factors, order in zip(
            images_BCHW, factors_B3.tolist(), order_B3.tolist(), strict=True
        ):
            for k in order:
                image_CHW = OPERATIONS[k](image_CHW, factors[k])
            changed.append(image_CHW)
        return torch.stack(changed)

    def draw(
        self, epoch: int, ids_B: Int[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B 3"], Int[Tensor, "B 3"]]:
        """Draw the factor of each operation, and the order of the operations."""
        drawn_B6 = uniform(self.key, epoch, ids_B, 6).double()
        factors_B3 = 1 + self.strength * (2 * drawn_B6[:, :3] - 1)
        # sorting three uniform numbers gives a uniform order
        order_B3 = drawn_B6[:, 3:].argsort(dim=1, stable=True)
        return factors_B3, order_B3


def make_colour_jitter(strength: float, key: Key) -> ColourJitter:
    """Draw factors uniform in [1 - strength, 1 + strength).

    Each is a function of (seed, epoch, sample id). Raises ValueError for strengths
    outside [0, 1].
    """
    if not 0 <= strength <= 1:
        raise ValueError(
            f"a jitter of {strength} is not between 0 and 1; 0.4 is BEiT's, 0 changes"
            " nothing"
        )
    return ColourJitter(strength, key)
