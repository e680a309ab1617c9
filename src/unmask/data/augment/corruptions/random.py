"""The random numbers of one image: a function of (key, sample id, stream).

They never depend on the batch in which the image came.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.randomness import Key, random_words


@dataclass(frozen=True)
class Draws:
    """Numbered streams of random numbers of one sample.

    To draw from a stream twice gives the same numbers twice.
    """

    key: Key
    sample: int

    def uniform(self, stream: int, *shape: int) -> Float[Tensor, "..."]:
        """Draw float64 numbers in (0, 1).

        They are the middles of 2**32 intervals, so that no quantile is infinite.
        """
        sample = torch.tensor([self.sample])
        drawn = random_words(self.key, stream, sample, math.prod(shape))
        return ((drawn.double() + 0.5) * 2.0**-32).reshape(shape)

    def normal(self, stream: int, *shape: int) -> Float[Tensor, "..."]:
        """Draw standard normal numbers, by inverse transform."""
        return torch.special.ndtri(self.uniform(stream, *shape)).float()

    def uniform_between(self, stream: int, low: float, high: float) -> float:
        return low + (high - low) * float(self.uniform(stream, 1))
