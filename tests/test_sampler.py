"""The order of samples is a function of (seed, epoch), wherever training resumes and on any machine."""

from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.data.loading.sampler import (
    EpochBatches,
    EvalBatches,
    Repeats,
    balanced_subset,
)
from unmask.randomness import Key, make_key

ORDER = make_key(0, "order")
# (accumulate, world size)
SPLITS = st.sampled_from([(1, 1), (2, 1), (1, 2), (3, 2), (2, 3), (1, 6)])
Stream = list[list[tuple[int, int]]]


def stream(
    size: int,
    split: tuple[int, int] = (1, 1),
    rank: int = 0,
    start: int = 0,
    epochs: int = 3,
) -> Stream:
    """Return all micro-batches of one rank, as a trainer would take them."""
    batches_done = start
    batches: Stream = []
    sampler = EpochBatches(
        list(range(100, 100 + size)),
        12,
        split[0],
        ORDER,
        lambda: batches_done,
        rank,
        split[1],
    )
    while batches_done < epochs * len(sampler):
        for batch in sampler:
            batches.append(batch)
            batches_done += 1
    return batches


@settings(derandomize=True, deadline=None, max_examples=30)
@given(size=st.integers(12, 60), split=SPLITS, share=st.floats(0, 1))
def test_resuming_anywhere_gives_the_rest_of_the_undisturbed_stream(
    size: int, split: tuple[int, int], share: float
) -> None:
    whole = stream(size, split)
    start = int(share * (len(whole) - 1))
    assert stream(size, split, start=start) == whole[start:]


@settings(derandomize=True, deadline=None, max_examples=30)
@given(size=st.integers(12, 60), split=SPLITS)
def test_an_optimiser_step_sees_the_same_samples_on_any_machine(
    size: int, split: tuple[int, int]
) -> None:
    accumulate, world_size = split
    alone = stream(size)
    ranks = [iter(stream(size, split, rank)) for rank in range(world_size)]
    for step in alone:
        parts = [next(rank) for _ in range(accumulate) for rank in ranks]
        assert list(chain(*parts)) == step
    assert all(next(rank, None) is None for rank in ranks)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(size=st.integers(12, 60))
def test_no_sample_comes_twice_in_an_epoch_and_only_an_incomplete_batch_is_left_out(
    size: int,
) -> None:
    for epoch in range(3):
        seen = [i for batch in stream(size) for e, i in batch if e == epoch]
        assert len(seen) == len(set(seen)) == size // 12 * 12
        assert set(seen) <= set(range(100, 100 + size))


def test_every_epoch_and_every_seed_has_another_order() -> None:
    orders = [
        tuple(EpochBatches(list(range(30)), 30, 1, key, lambda: 0).order(epoch))
        for key in (ORDER, make_key(1, "order"))
        for epoch in range(5)
    ]
    assert len(set(orders)) == 10
    assert all(sorted(order) == list(range(30)) for order in orders)


def test_batches_that_do_not_split_are_refused() -> None:
    message = (
        r"a batch of 10 does not split into 2 micro-batches on 3 processes; pick"
        r" trainer.micro_batch so that"
    )
    with pytest.raises(ValueError, match=message):
        EpochBatches(list(range(20)), 10, 2, ORDER, lambda: 0, world_size=3)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_every_sample_once_on_any_number_of_ranks(
    world_size: int,
) -> None:
    samplers = [
        EvalBatches(list(range(10)), 4, rank, world_size) for rank in range(world_size)
    ]
    seen = [key for sampler in samplers for batch in sampler for key in batch]
    assert sorted(seen) == [(0, i) for i in range(10)]
    assert all(len(list(sampler)) == len(sampler) for sampler in samplers)


@pytest.mark.parametrize("count", [9, 10, 30])
def test_a_labelled_subset_has_all_classes_equally_often(count: int, key: Key) -> None:
    labels = torch.tensor([0] * 50 + [1] * 20 + [2] * 10)
    chosen = balanced_subset(labels, count, key)
    counts = torch.bincount(labels[chosen], minlength=3)
    assert len(set(chosen)) == count == counts.sum()
    assert counts.max() - counts.min() <= 1


def test_a_labelled_subset_is_drawn_at_random_by_the_key() -> None:
    labels = torch.arange(200) % 2
    subsets = [
        balanced_subset(labels, 20, make_key(seed, "labels")) for seed in (0, 0, 1)
    ]
    assert subsets[0] == subsets[1] != subsets[2]
    times_drawn = torch.zeros(200)
    for seed in range(200):
        times_drawn[balanced_subset(labels, 20, make_key(seed, "labels"))] += 1
    assert times_drawn.max() < 20 + 5 * (200 * 0.1 * 0.9) ** 0.5


def test_a_class_that_is_too_small_is_named_with_the_largest_possible_subset(
    key: Key,
) -> None:
    labels = torch.tensor([0] * 50 + [1] * 7)
    message = (
        r"labels=40 asks for 20 images of class 1, which has 7; at most labels=14 can"
        r" be balanced"
    )
    with pytest.raises(ValueError, match=message):
        balanced_subset(labels, 40, key)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    size=st.integers(12, 60),
    views=st.sampled_from([1, 2, 3]),
    split=st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2)]),
)
def test_repeats_draw_each_image_once_an_epoch_in_views_side_by_side(
    size: int, views: int, split: tuple[int, int]
) -> None:
    """A batch has batch_size / views images, and no two ranks share one.

    Steps are the same for any number of ranks.
    """
    accumulate, world_size = split
    ids, repeats, batch = list(range(5, 5 + size)), Repeats(views, 100), 12 * views
    if batch // accumulate // world_size % views or batch > size * views:
        return
    ranks = [
        list(
            EpochBatches(
                ids, batch, accumulate, ORDER, lambda: 0, rank, world_size, repeats
            )
        )
        for rank in range(world_size)
    ]
    alone = list(EpochBatches(ids, batch, 1, ORDER, lambda: 0, repeats=repeats))
    # an epoch has as many steps as there are batches of images
    assert len(alone) == size // 12
    parts = [
        [sample for _, sample in part]
        for micro in zip(*ranks, strict=True)
        for part in micro
    ]
    assert list(chain(*parts)) == [sample for step in alone for _, sample in step]
    for part in parts:
        images = [
            [sample % 100 for sample in part[k : k + views]]
            for k in range(0, len(part), views)
        ]
        assert all(len(set(image)) == 1 for image in images)
    samples = list(chain(*parts))
    assert len(set(samples)) == len(samples) == size // 12 * batch
    assert len({sample % 100 for sample in samples}) == len(samples) // views


def test_repeats_that_a_rank_cannot_keep_together_are_refused() -> None:
    message = (
        r"6 images at once on each of 2 processes are not a multiple of"
        r" augment.repeats=4: views of an image stay"
    )
    with pytest.raises(ValueError, match=message):
        EpochBatches(
            list(range(20)),
            12,
            1,
            ORDER,
            lambda: 0,
            world_size=2,
            repeats=Repeats(4, 20),
        )
