"""Draws are those of Philox4x32-10, depend only on their name, and look random."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from unmask.randomness import (
    Key,
    make_key,
    normal_tensor,
    permutation,
    philox,
    random_words,
    uniform,
    uniform_tensor,
)

LEAST_P = 1e-3  # draws are fixed, so a test that passes once passes always
ONES = 0xFFFFFFFF

KNOWN_ANSWERS = {  # Random123's kat_vectors: counter, key, result
    "zeros": ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    "ones": (
        (ONES,) * 4,
        (ONES,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    "pi": (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
}


@pytest.mark.parametrize("name", KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(name: str) -> None:
    counter, key, expected = KNOWN_ANSWERS[name]
    drawn = philox(tuple(torch.tensor([word]) for word in counter), Key(*key))
    assert tuple(int(word) for word in drawn) == expected


def test_a_draw_is_philox_of_block_id_and_step(key: Key) -> None:
    sample = 3 * 2**32 + 7
    counters = [
        tuple(torch.tensor([word]) for word in (block, 7, 3, 11)) for block in (0, 1)
    ]
    expected = [int(word) for counter in counters for word in philox(counter, key)]
    assert random_words(key, 11, torch.tensor([sample]), 8)[0].tolist() == expected


@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    ids=st.lists(st.integers(0, 2**63 - 1), min_size=2, max_size=8),
    count=st.integers(1, 9),
    cut=st.integers(1, 7),
)
def test_draws_do_not_depend_on_the_batch_or_on_how_many_are_drawn(
    ids: list[int], count: int, cut: int
) -> None:
    key, cut = make_key(1, "any"), min(cut, len(ids) - 1)
    together = random_words(key, 5, torch.tensor(ids), count)
    apart = [
        random_words(key, 5, torch.tensor(part), count + 6)[:, :count]
        for part in (ids[:cut], ids[cut:])
    ]
    assert together.equal(torch.cat(apart))


def test_ids_above_32_bits_have_other_draws(key: Key) -> None:
    ids = torch.tensor([5, 5 + 2**32, 5 + 2**33, 5 + 2**62])
    assert len({tuple(row) for row in random_words(key, 0, ids, 4).tolist()}) == len(
        ids
    )


def test_every_seed_purpose_step_and_sample_is_a_stream_unrelated_to_the_others() -> (
    None
):
    ids = torch.arange(2)
    names = [
        make_key(seed, *name)
        for seed in (0, 1)
        for name in [("mask",), ("crop",), ("a", "bc"), ("ab", "c")]
    ]
    streams = torch.cat(
        [uniform(key, step, ids, 20_000) for key in names for step in (0, 1)]
    )
    correlations = np.corrcoef(streams)[np.triu_indices(len(streams), 1)]
    assert np.abs(correlations).max() < 5 / 20_000**0.5


def test_uniform_draws_are_uniform_and_exact_in_float32(key: Key) -> None:
    drawn = uniform(key, 0, torch.arange(100), 2_000).flatten()
    assert stats.kstest(drawn, "uniform").pvalue > LEAST_P
    assert stats.chisquare(torch.histc(drawn, bins=256, min=0, max=1)).pvalue > LEAST_P
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert (drawn.double() * 2**24 % 1 == 0).all()


def test_each_bit_of_a_word_is_fair(key: Key) -> None:
    drawn = random_words(key, 0, torch.arange(10_000), 4).flatten()
    ones = torch.stack([drawn >> bit & 1 for bit in range(32)]).double().mean(1)
    assert (ones - 0.5).abs().max() < 4.5 * 0.5 / len(drawn) ** 0.5


@settings(derandomize=True, deadline=None, max_examples=20)
@given(size=st.integers(1, 300), step=st.integers(0, 2**32 - 1))
def test_a_permutation_holds_every_index_once(size: int, step: int) -> None:
    assert sorted(permutation(make_key(0, "order"), step, size).tolist()) == list(
        range(size)
    )


def test_every_order_is_equally_likely(key: Key) -> None:
    drawn = [tuple(permutation(key, step, 4).tolist()) for step in range(2_400)]
    counts = [drawn.count(order) for order in itertools.permutations(range(4))]
    assert stats.chisquare(counts).pvalue > LEAST_P


def test_each_index_is_equally_likely_at_each_position(key: Key) -> None:
    orders = torch.stack([permutation(key, step, 20) for step in range(1_000)])
    counts = torch.stack([(orders == index).sum(0) for index in range(20)]).numpy()
    assert stats.chisquare(counts.flatten(), ddof=2 * 20 - 2).pvalue > LEAST_P


def test_normal_draws_are_normal(key: Key) -> None:
    drawn = normal_tensor(key, (50, 1_001))
    assert drawn.shape == (50, 1_001)
    assert stats.kstest(drawn.flatten(), "norm").pvalue > LEAST_P


def test_weights_do_not_depend_on_the_pieces_they_are_drawn_in(key: Key) -> None:
    assert uniform_tensor(key, (600, 7), rows=256).equal(
        uniform_tensor(key, (600, 7), rows=1_000)
    )
