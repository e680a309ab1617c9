"""How many predictions are right, where the images' classes are known."""

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unmask.tasks.logits import best_guesses

TOP = {"top-1": 1, "top-5": 5}


class Accuracy:
    """Count the images of each class, and those whose label comes first (top-1).

    With more than five classes also those whose label is among the first five (top-5).
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = classes
        self.images_K = torch.zeros(len(classes), dtype=torch.long)
        self.right_K = {
            name: torch.zeros_like(self.images_K)
            for name, places in TOP.items()
            if places == 1 or places < len(classes)
        }

    def add(self, logits_BK: Float[Tensor, "B K"], labels_B: Int[Tensor, "B"]) -> None:
        """Count a batch; images with a negative label are of no known class."""
        is_known_B = labels_B >= 0
        logits_BK, labels_B = logits_BK[is_known_B], labels_B[is_known_B]
        self.images_K += self._count(labels_B)
        for name, right_K in self.right_K.items():
            guesses_B = best_guesses(logits_BK, labels_B, TOP[name])
            right_K += self._count(labels_B[guesses_B == labels_B])

    def _count(self, labels_B: Int[Tensor, "B"]) -> Int[Tensor, "K"]:
        return labels_B.bincount(minlength=len(self.classes))

    @property
    def images(self) -> int:
        """Return how many images of a known class were counted."""
        return int(self.images_K.sum())

    def per_cent(self) -> dict[str, float]:
        """Return top-1 and top-5 over all images of known classes, in per cent."""
        return {
            name: 100 * int(right_K.sum()) / self.images
            for name, right_K in self.right_K.items()
        }

    def by_class(self) -> pd.DataFrame:
        """Return a row for each class that has images: how many, and per cent right."""
        table = pd.DataFrame({"class": self.classes, "images": self.images_K.numpy()})
        for name, right_K in self.right_K.items():
            table[name] = 100 * right_K.numpy() / self.images_K.clamp(min=1).numpy()
        return table[table["images"] > 0].round(2)
