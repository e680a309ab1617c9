"""RandAugment and random erasing, both by timm.

RandAugment: Cubuk et al. 2020, arXiv 1909.13719. Random erasing: Zhong et al. 2020,
arXiv 1708.04896. timm draws from the global generators; for each image they are seeded
by (seed, epoch, sample id) and restored afterwards.
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

from unmask.data.images.tensors import PixelBatch, shares_to_bytes
from unmask.randomness import Key, random_words, seeded_generators

# share of the shorter side by which RandAugment may translate: that of timm's training
# transform
TRANSLATE_SHARE = 0.45


@dataclass(frozen=True)
class RandAugment:
    """Apply timm's transform to batches of grey or RGB images, after the crop.

    It knows 8 bits alone: shares of a range are rounded to them.
    """

    transform: Any
    key: Key

    def __call__(
        self, images_BCHW: PixelBatch, epoch: int, ids_B: Int[Tensor, "B"]
    ) -> UInt8[Tensor, "B C H W"]:
        images_BCHW = shares_to_bytes(images_BCHW)
        states = random_words(self.key, epoch, ids_B, 2).tolist()
        changed = []
        for image_CHW, state in zip(images_BCHW, states, strict=True):
            with seeded_generators(state):
                changed.append(pil_to_tensor(self.transform(to_pil_image(image_CHW))))
        return torch.stack(changed)


def make_rand_augment(
    policy: str, mean: tuple[float, ...], shape: tuple[int, int], key: Key
) -> RandAugment:
    """Parse a policy in timm's notation, with timm's settings for training.

    Pixels that move into the image have the mean colour.
    """
    fill = tuple(min(255, round(255 * value)) for value in mean)
    settings = {
        "translate_const": int(min(shape) * TRANSLATE_SHARE),
        # Pillow wants a number for grey images
        "img_mean": fill if len(fill) > 1 else fill[0],
        "interpolation": Image.Resampling.BICUBIC,
    }
    transform = rand_augment_transform(policy, settings)
    for operation in transform.ops:
        if operation.aug_fn is posterize:
            operation.aug_fn = safe_posterize
    return RandAugment(transform, key)


def safe_posterize(image: Image.Image, bits: int, **settings: Any) -> Image.Image:
    """Posterize by timm, and return black where no bit is kept (full strength).

    Older releases of Pillow return black there too; newer ones raise an error.
    """
    if bits > 0:
        return posterize(image, bits, **settings)
    return image.point([0] * 256 * len(image.getbands()))


def erase_boxes(
    images_BCHW: Float[Tensor, "B C H W"],
    share: float,
    key: Key,
    epoch: int,
    ids_B: Int[Tensor, "B"],
) -> None:
    """Overwrite a random box by normal noise in `share` of the images, in place.

    The images are normalised. The noise is drawn on the CPU: a GPU's generator would
    give other bits.
    """
    eraser = RandomErasing(share, mode="pixel", device="cpu")
    states = random_words(key, epoch, ids_B, 2).tolist()
    for image_CHW, state in zip(images_BCHW, states, strict=True):
        with seeded_generators(state):
            eraser(image_CHW)
