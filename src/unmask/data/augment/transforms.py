"""What an augmentation does to the cropped images: RandAugment, jitter, the user's."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from unmask.data.augment.colour_jitter import make_colour_jitter
from unmask.data.augment.crops import Augmentation
from unmask.data.augment.own import OwnAugmentation
from unmask.data.augment.randaugment import make_rand_augment
from unmask.randomness import make_key

# (images, epoch, sample ids) to images
Transform = Callable[[Tensor, int, Tensor], Tensor]


@dataclass(frozen=True)
class InOrder:
    """Apply one transform, and another one to its images."""

    first: Transform
    second: Transform

    def __call__(self, images_BCHW: Tensor, epoch: int, ids_B: Tensor) -> Tensor:
        return self.second(self.first(images_BCHW, epoch, ids_B), epoch, ids_B)


def make_transform(
    augment: Augmentation, mean: tuple[float, ...], shape: tuple[int, int], seed: int
) -> Transform | None:
    """Return what is done to images of `shape`; None where they are only cropped.

    mean: of the channels, for what RandAugment moves into the image.
    """
    made: Transform | None = None
    if augment.policy:
        key = make_key(seed, "policy")
        made = make_rand_augment(augment.policy, mean, shape, key)
    elif augment.jitter:
        made = make_colour_jitter(augment.jitter, make_key(seed, "jitter"))
    if augment.own is None:
        return made
    own = OwnAugmentation(augment.own, make_key(seed, "augment"))
    return InOrder(made, own) if made else own
