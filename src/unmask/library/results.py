"""What a model returns: classes of images, and reconstructions."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from unmask.config.section import Count
from unmask.library.arguments import checked
from unmask.reconstructions import Reconstruction, contact_sheet


class Classification(NamedTuple):
    """Probabilities of N images for K classes, on the CPU.

    classes: their names, numbers where the weights have none.
    """

    probabilities: Float[Tensor, "N K"]
    classes: tuple[str, ...]

    @property
    def best(self) -> list[str]:
        """Return the most probable class of each image."""
        return [self.classes[k] for k in self.probabilities.argmax(dim=1).tolist()]

    def top(self, count: int = 5) -> list[list[tuple[str, float]]]:
        """Return (class, probability) of each image's first classes, best first."""
        count = checked("count", count, Count)
        # equal ones come by class, as in `best`
        ordered = self.probabilities.sort(dim=1, descending=True, stable=True)
        values, indices = (part[:, :count].tolist() for part in ordered)
        return [
            [(self.classes[k], p) for k, p in zip(ks, ps, strict=True)]
            for ks, ps in zip(indices, values, strict=True)
        ]


class Reconstructed(NamedTuple):
    """N images in [0, 1] before and after the model, on the CPU.

    masked: hidden patches are grey. pasted: visible patches as they are, hidden ones as
    predicted. hidden: True for patches that the encoder did not see, in a grid of
    r x c patches.
    """

    original: Float[Tensor, "N C H W"]
    masked: Float[Tensor, "N C H W"]
    pasted: Float[Tensor, "N C H W"]
    hidden: Bool[Tensor, "N r c"]

    def picture(self, per_row: int = 4) -> Image.Image:
        """Draw original, masked image and reconstruction of each image side by side."""
        per_row = checked("per_row", per_row, Count)
        return contact_sheet(Reconstruction(*self[:3]), per_row)


def join_parts(parts: list[Reconstructed]) -> Reconstructed:
    """Return the parts as one, in their order."""
    return Reconstructed(*(torch.cat(column) for column in zip(*parts, strict=True)))
