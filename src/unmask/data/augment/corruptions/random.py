"""The random numbers of one image: a function of (key, sample id, stream), never of the batch it came in."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.randomness import Key, words


@dataclass(frozen=True)
class Draws:
    """Streams of one sample, told apart by a number; asking twice gives the same numbers twice."""

    key: Key
    sample: int

    def uniform(self, stream: int, *shape: int) -> Float[Tensor, "..."]:
        """Uniform in (0, 1), float64: the middles of 2**32 intervals, so that no quantile is infinite."""
        drawn = words(self.key, stream, torch.tensor([self.sample]), math.prod(shape))
        return ((drawn.double() + 0.5) * 2.0**-32).reshape(shape)

    def normal(self, stream: int, *shape: int) -> Float[Tensor, "..."]:
        """Standard normal by inverse transform."""
        return torch.special.ndtri(self.uniform(stream, *shape)).float()

    def between(self, stream: int, low: float, high: float) -> float:
        return low + (high - low) * float(self.uniform(stream, 1))
