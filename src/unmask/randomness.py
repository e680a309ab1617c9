"""Randomness as a function: every draw is named by (seed, purpose, step, sample), never by what was drawn before.

The generator is Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") in int64
arithmetic, so CPU and GPU, one process or eight, batch 4 x 8 or 1 x 32 give the same bits.
"""

import hashlib
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

WORD = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)


class Key(NamedTuple):
    """A 64-bit Philox key: one independent stream of draws."""

    low: int
    high: int


def make_key(seed: int, *purpose: str | int) -> Key:
    """The key of `purpose` under `seed`; different names give unrelated streams."""
    name = "\0".join([str(seed), *map(str, purpose)])
    digest = hashlib.sha256(name.encode()).digest()
    return Key(
        int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")
    )


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: Key
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds of Philox4x32 on four int64 tensors that hold 32-bit words."""
    a, b, c, d = counter
    low, high = key
    for _ in range(10):
        # int64 multiplication wraps, so the 64 bits of the unsigned product are all
        # there
        left, right = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b, c, d = (
            (right >> 32 & WORD) ^ b ^ low,
            right & WORD,
            (left >> 32 & WORD) ^ d ^ high,
            left & WORD,
        )
        low, high = (low + WEYL[0]) & WORD, (high + WEYL[1]) & WORD
    return a, b, c, d


def words(
    key: Key, step: int, ids_B: Int[Tensor, "B"], count: int, first: int = 0
) -> Int[Tensor, "B n"]:
    """`count` 32-bit words for each sample id at `step` (0 <= step < 2**32, 0 <= id < 2**63), from word `first` on."""
    blocks = torch.arange(first // 4, -(-(first + count) // 4), device=ids_B.device)[
        None, :
    ]
    ids = ids_B.long()[:, None]
    shape = torch.broadcast_shapes(blocks.shape, ids.shape)
    counter = (
        blocks.expand(shape),
        (ids & WORD).expand(shape),
        (ids >> 32).expand(shape),
        blocks.new_full(shape, step),
    )
    return torch.stack(philox(counter, key), dim=-1).flatten(1)[
        :, first % 4 : first % 4 + count
    ]


def uniform(
    key: Key, step: int, ids_B: Int[Tensor, "B"], count: int, first: int = 0
) -> Float[Tensor, "B n"]:
    """`count` float32 numbers in [0, 1) for each sample: the upper 24 bits of a word, so every value is exact."""
    return (words(key, step, ids_B, count, first) >> 8).float() * 2.0**-24


def permutation(key: Key, step: int, size: int) -> Int[Tensor, "N"]:
    """A uniformly random order of `size` things; 62-bit sort keys make ties impossible in practice."""
    drawn_N2 = words(key, step, torch.arange(size), 2)
    return ((drawn_N2[:, 0] << 30) ^ drawn_N2[:, 1]).argsort(stable=True)


@contextmanager
def borrowed_generators(state: Sequence[int]) -> Iterator[None]:
    """Python's, NumPy's and torch's (CPU) own generators as a function of two words, and afterwards as they were.

    For libraries that draw from them (timm's augmentations, mixup): what they do is then named like all else.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(state[0] << 32 | state[1])
    np.random.seed(np.array(list(state), dtype=np.uint32))
    # torch.manual_seed would seed GPUs too
    torch.default_generator.manual_seed(state[0] << 31 | state[1] >> 1)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def uniform_like(
    key: Key, shape: tuple[int, ...], rows: int = 256
) -> Float[Tensor, "..."]:
    """Uniform [0, 1) numbers of any shape, a few rows at a time to bound the memory of the int64 words."""
    height = shape[0] if len(shape) > 1 else 1
    width = math.prod(shape) // height
    pieces = [
        uniform(key, 0, torch.arange(i, min(i + rows, height)), width)
        for i in range(0, height, rows)
    ]
    return torch.cat(pieces).reshape(shape)


def normal_like(key: Key, shape: tuple[int, ...]) -> Float[Tensor, "..."]:
    """Standard normal numbers (Box-Muller in float64), to be drawn on the CPU: log and cos differ by device."""
    drawn = uniform_like(key, (2, math.prod(shape))).double()
    radius = (-2 * torch.log1p(-drawn[0])).sqrt()
    return (radius * torch.cos(2 * math.pi * drawn[1])).float().reshape(shape)
