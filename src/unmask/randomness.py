"""Randomness as a function: (seed, purpose, step, sample) names every draw.

No draw depends on what was drawn before. The generator is Philox4x32-10 (Salmon et al.
2011, "Parallel random numbers: as easy as 1, 2, 3") in int64 arithmetic, so that CPU
and GPU, one process or eight, batch 4 x 8 or 1 x 32 give the same bits.
"""

import hashlib
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

WORD_MASK = 0xFFFFFFFF
# the constants of Philox4x32
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
# the byte at which the twister's 624 words begin in the state of torch's generator: the
# seed, the position in two numbers, and the next word come first
TWISTER = 24


class Key(NamedTuple):
    """A 64-bit Philox key: one independent stream of draws."""

    low: int
    high: int


def make_key(seed: int, *purpose: str | int) -> Key:
    """Return the key of `purpose` under `seed`; other names give unrelated streams."""
    # the separator keeps ("a", "bc") apart from ("ab", "c")
    name = "\0".join([str(seed), *map(str, purpose)])
    digest = hashlib.sha256(name.encode()).digest()
    low = int.from_bytes(digest[:4], "little")
    high = int.from_bytes(digest[4:8], "little")
    return Key(low, high)


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: Key
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run ten rounds of Philox4x32 on four int64 tensors that hold 32-bit words."""
    a, b, c, d = counter
    low, high = key
    for _ in range(10):
        # int64 multiplication wraps: all 64 bits of the unsigned product are there
        left = a * MULTIPLIERS[0]
        right = c * MULTIPLIERS[1]
        a, b, c, d = (
            (right >> 32 & WORD_MASK) ^ b ^ low,
            right & WORD_MASK,
            (left >> 32 & WORD_MASK) ^ d ^ high,
            left & WORD_MASK,
        )
        low = (low + WEYL[0]) & WORD_MASK
        high = (high + WEYL[1]) & WORD_MASK
    return a, b, c, d


def random_words(
    key: Key, step: int, ids_B: Int[Tensor, "B"], count: int, first: int = 0
) -> Int[Tensor, "B n"]:
    """Draw `count` 32-bit words for each sample id, from word number `first` on.

    0 <= step < 2**32 and 0 <= id < 2**63.
    """
    # a block of Philox is four words
    first_block = first // 4
    last_block = -(-(first + count) // 4)
    blocks = torch.arange(first_block, last_block, device=ids_B.device)[None, :]
    ids = ids_B.long()[:, None]
    shape = torch.broadcast_shapes(blocks.shape, ids.shape)
    counter = (
        blocks.expand(shape),
        (ids & WORD_MASK).expand(shape),
        (ids >> 32).expand(shape),
        blocks.new_full(shape, step),
    )
    drawn = torch.stack(philox(counter, key), dim=-1).flatten(1)
    start = first % 4
    return drawn[:, start : start + count]


def uniform(
    key: Key, step: int, ids_B: Int[Tensor, "B"], count: int, first: int = 0
) -> Float[Tensor, "B n"]:
    """Draw `count` float32 numbers in [0, 1) for each sample id; see random_words."""
    # the upper 24 bits of a word: as many as float32 holds exactly
    return (random_words(key, step, ids_B, count, first) >> 8).float() * 2.0**-24


def permutation(key: Key, step: int, size: int) -> Int[Tensor, "N"]:
    """Return 0 .. size - 1 in a uniformly random order."""
    drawn_N2 = random_words(key, step, torch.arange(size), 2)
    # 62-bit sort keys: ties do not happen in practice
    return ((drawn_N2[:, 0] << 30) ^ drawn_N2[:, 1]).argsort(stable=True)


@contextmanager
def seeded_generators(seed_words: Sequence[int]) -> Iterator[None]:
    """Seed the generators of Python, NumPy and torch (CPU) by two words, then restore.

    For libraries that draw from them (timm's augmentations, mixup): inside, their draws
    are a function of the words.
    """
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    torch_state = torch.get_rng_state()
    random.seed(seed_words[0] << 32 | seed_words[1])
    _seed_torch(seed_words)
    np.random.seed(np.array(list(seed_words), dtype=np.uint32))
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)


def _seed_torch(seed_words: Sequence[int]) -> None:
    """Seed torch's generator of the CPU by all bits of the words, through NumPy's.

    Of a seed it takes 32 bits: of 80,000 images two would probably have the same draws.
    It is a Mersenne Twister as NumPy's is, which takes any number of words.
    """
    # the third word gives torch other draws than NumPy, which has the same two
    np.random.seed(np.array([*seed_words, 1], dtype=np.uint32))
    state_of_numpy: Any = np.random.get_state()
    words_624 = state_of_numpy[1]
    # torch.manual_seed would seed GPUs too
    generator = torch.default_generator.manual_seed(0)
    state = generator.get_state()
    place = state.numpy()[TWISTER : TWISTER + 8 * len(words_624)]
    place.view(np.uint64)[:] = words_624
    generator.set_state(state)


def uniform_tensor(
    key: Key, shape: tuple[int, ...], rows: int = 256
) -> Float[Tensor, "..."]:
    """Draw a tensor of numbers in [0, 1), `rows` at a time to bound the memory."""
    height = shape[0] if len(shape) > 1 else 1
    width = math.prod(shape) // height
    # each row has its own stream, so `rows` does not change the numbers
    pieces = [
        uniform(key, 0, torch.arange(i, min(i + rows, height)), width)
        for i in range(0, height, rows)
    ]
    return torch.cat(pieces).reshape(shape)


def normal_tensor(key: Key, shape: tuple[int, ...]) -> Float[Tensor, "..."]:
    """Draw a tensor of standard normal numbers, on the CPU."""
    # Box-Muller in float64: sqrt(-2 log(1 - u)) cos(2 pi v). On the CPU, as log and
    # cos differ by device.
    drawn = uniform_tensor(key, (2, math.prod(shape))).double()
    radius = (-2 * torch.log1p(-drawn[0])).sqrt()
    return (radius * torch.cos(2 * math.pi * drawn[1])).float().reshape(shape)
