"""Colour jitter (MAE Table 1e): brightness, contrast and saturation by random factors, in a random order.

The paper publishes no strength; BEiT's code has 0.4 for each of the three. The arithmetic is torchvision's.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torchvision.transforms.v2.functional import (
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
)

from unmask.randomness import Key, uniform

OPERATIONS = (adjust_brightness, adjust_contrast, adjust_saturation)


@dataclass(frozen=True)
class ColourJitter:
    """For whole batches of grey or RGB images, after the crop; saturation leaves grey images as they are."""

    strength: float
    key: Key

    def __call__(
        self, images_BCHW: UInt8[Tensor, "B C H W"], epoch: int, ids_B: Int[Tensor, "B"]
    ) -> UInt8[Tensor, "B C H W"]:
        if images_BCHW.shape[1] not in (1, 3):
            raise ValueError(
                f"colour jitter came upon images of {images_BCHW.shape[1]} channels,"
                " and knows 1 (grey) and 3 (RGB); leave the jitter out for these"
                " images"
            )
        factors_B3, order_B3 = self.draws(epoch, ids_B)
        changed = []
        for image_CHW, factors, order in zip(
            images_BCHW, factors_B3.tolist(), order_B3.tolist(), strict=True
        ):
            for k in order:
                image_CHW = OPERATIONS[k](image_CHW, factors[k])
            changed.append(image_CHW)
        return torch.stack(changed)

    def draws(
        self, epoch: int, ids_B: Int[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B 3"], Int[Tensor, "B 3"]]:
        """Factors of brightness, contrast and saturation, and which of the three comes first, second and third."""
        drawn_B6 = uniform(self.key, epoch, ids_B, 6).double()
        return 1 + self.strength * (2 * drawn_B6[:, :3] - 1), drawn_B6[:, 3:].argsort(
            dim=1, stable=True
        )


def colour_jitter(strength: float, key: Key) -> ColourJitter:
    """Factors uniform in [1 - strength, 1 + strength), each a function of (seed, epoch, sample id)."""
    if not 0 <= strength <= 1:
        raise ValueError(
            f"a jitter of {strength} is not between 0 and 1; 0.4 is BEiT's, 0 changes"
            " nothing"
        )
    return ColourJitter(strength, key)
