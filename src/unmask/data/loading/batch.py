"""Batches of images, and the form in which the model sees images."""

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float32, Int, UInt8
from torch import Tensor

from unmask.data.augment.crops import Augmentation
from unmask.data.images.unreadable import BadImage


class Batch(NamedTuple):
    """A batch of one epoch: finished crops as pixels, then normalised floats.

    labels: -1 where there are none. ids: sample ids; view k of image i is sample
    i + k * (images of the split), and ids below that number are the images' own.
    bad_images: which could not be read.
    """

    images_BCHW: UInt8[Tensor, "B C h w"] | Float32[Tensor, "B C h w"]
    labels_B: Int[Tensor, "B"]
    ids_B: Int[Tensor, "B"]
    epoch: int
    bad_images: tuple[BadImage, ...] = ()


@dataclass(frozen=True)
class ImageFormat:
    """What the model sees.

    shape: (height, width). mean, std: per channel, of shares in [0, 1]. eval_crop: side
    of the centre crop in evaluation, as a share of the image's. between_pixels: that
    crop is the official one, and not one of whole pixels.
    """

    shape: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    eval_crop: float = 1.0
    between_pixels: bool = True

    @property
    def evaluation(self) -> Augmentation:
        """Return the augmentation that shows what evaluation sees."""
        return Augmentation(centre=self.eval_crop, between_pixels=self.between_pixels)
