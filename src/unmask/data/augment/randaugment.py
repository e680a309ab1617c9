"""RandAugment (Cubuk et al. 2020, arXiv 1909.13719) and random erasing (Zhong et al. 2020, arXiv 1708.04896), by timm.

timm draws from the global generators; here they are lent to it for each image, named by (seed, epoch, sample id).
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from timm.data.auto_augment import posterize, rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from unmask.randomness import Key, borrowed_generators, words

# of the shorter side: how far timm's training transform lets RandAugment translate
MOVE = 0.45


@dataclass(frozen=True)
class RandAugment:
    """timm's transform for whole batches of grey or RGB images, after the crop."""

    transform: Any
    key: Key

    def __call__(
        self, images_BCHW: UInt8[Tensor, "B C H W"], epoch: int, ids_B: Int[Tensor, "B"]
    ) -> UInt8[Tensor, "B C H W"]:
        changed = []
        for image_CHW, state in zip(
            images_BCHW, words(self.key, epoch, ids_B, 2).tolist(), strict=True
        ):
            with borrowed_generators(state):
                changed.append(pil_to_tensor(self.transform(to_pil_image(image_CHW))))
        return torch.stack(changed)


def rand_augment(
    policy: str, mean: tuple[float, ...], shape: tuple[int, int], key: Key
) -> RandAugment:
    """The policy in timm's words, with timm's settings for training: what moves in is of the mean colour."""
    fill = tuple(min(255, round(255 * value)) for value in mean)
    settings = {
        "translate_const": int(min(shape) * MOVE),
        "img_mean": fill if len(fill) > 1 else fill[0],
        "interpolation": Image.Resampling.BICUBIC,
    }
    transform = rand_augment_transform(policy, settings)
    for operation in transform.ops:
        if operation.aug_fn is posterize:
            operation.aug_fn = posterized
    return RandAugment(transform, key)


def posterized(image: Image.Image, bits: int, **settings: Any) -> Image.Image:
    """timm's, which at full strength keeps no bit: black in older releases of Pillow, an error in newer ones."""
    return (
        posterize(image, bits, **settings)
        if bits > 0
        else image.point([0] * 256 * len(image.getbands()))
    )


def erase(
    images_BCHW: Float[Tensor, "B C H W"],
    share: float,
    key: Key,
    epoch: int,
    ids_B: Int[Tensor, "B"],
) -> None:
    """Overwrite a random box by normal noise in `share` of the normalised images, in place.

    The noise is drawn on the CPU: a GPU's generator would give other bits.
    """
    eraser = RandomErasing(share, mode="pixel", device="cpu")
    for image_CHW, state in zip(
        images_BCHW, words(key, epoch, ids_B, 2).tolist(), strict=True
    ):
        with borrowed_generators(state):
            eraser(image_CHW)
