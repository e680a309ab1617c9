"""An augmentation of the user's, after the crop: what it must be, and what it is given.

It changes whole batches on the CPU, in a loader's worker or not.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor

from unmask.data.images.tensors import PixelBatch
from unmask.randomness import Key


@runtime_checkable
class AnyAugmentation(Protocol):
    """A change of training images, as classes of the user's have it.

    Called with images (B, C, H, W), which are cropped and mirrored already: uint8, or
    float32 in [0, 1] where files have more bits. Returns images of the same shape and
    type. The same key, epoch and id change an image in the same way, whatever the
    other images of the batch; views of an image have ids of their own.
    """

    def __call__(
        self, images_BCHW: PixelBatch, key: Key, ids_B: Int[Tensor, "B"], epoch: int
    ) -> PixelBatch: ...


@dataclass(frozen=True)
class OwnAugmentation:
    """Apply a user's augmentation under one key; ValueError where it breaks the shape.

    The loader calls it with (images, epoch, ids), as RandAugment.
    """

    part: AnyAugmentation
    key: Key

    def __call__(
        self, images_BCHW: PixelBatch, epoch: int, ids_B: Int[Tensor, "B"]
    ) -> PixelBatch:
        changed: Any = self.part(images_BCHW, self.key, ids_B, epoch)
        expected = images_BCHW.shape, images_BCHW.dtype
        if (getattr(changed, "shape", 0), getattr(changed, "dtype", 0)) != expected:
            shape, dtype = [*images_BCHW.shape], images_BCHW.dtype
            raise ValueError(
                f"it turns {dtype} images of shape {shape} into {describe(changed)};"
                " keep shape and type"
            )
        return changed


def describe(value: Any) -> str:
    """Return the type and shape of a tensor, or the type of another value."""
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {[*value.shape]}"
    return type(value).__name__
