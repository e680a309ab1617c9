"""Names and labels in arrays behave as the lists they stand for."""

import numpy as np
import pytest

from unmask.data.listing.names import Names, Samples

WORDS = ["train/é/1.jpg", "", "b", "日本/2.png", "bad\udcff.jpg", "b"]
SLICES = [
    slice(None),
    slice(1, 4),
    slice(4, 1),
    slice(None, None, -1),
    slice(0, 6, 2),
    slice(-2, None),
    slice(9, 20),
]


@pytest.mark.parametrize("part", SLICES)
def test_a_slice_is_the_slice_of_the_list(part: slice) -> None:
    names, samples = Names(WORDS), Samples(zip(WORDS, range(6), strict=True))
    assert list(names[part]) == WORDS[part]
    assert list(names[1:][part]) == WORDS[1:][part]
    assert names[part] == Names(WORDS[part])
    assert samples[part] == list(zip(WORDS, range(6), strict=True))[part]


def test_a_part_in_order_is_the_same_memory() -> None:
    names = Names(map(str, range(1000)))
    assert np.shares_memory(names[10:900].text, names.text)
    assert names[10:900][5] == "15"


def test_names_are_taken_in_any_order_and_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("unmask.data.listing.names.BLOCK", 4)  # several of them
    names, places = Names(WORDS), np.random.default_rng(0).integers(0, 6, 50)
    assert list(names.take(places)) == [WORDS[i] for i in places]
    assert list(names[2:].take(places % 4)) == [WORDS[2 + i % 4] for i in places]
    assert list(names.take(places[:0])) == []


@pytest.mark.parametrize("i", [6, -7])
def test_beyond_the_end_there_is_nothing(i: int) -> None:
    with pytest.raises(IndexError):
        Names(WORDS)[i]


def test_samples_are_equal_to_the_same_pairs_alone() -> None:
    pairs = [(word, i) for i, word in enumerate(WORDS)]
    assert Samples(pairs) == Samples(iter(pairs)) == tuple(pairs)
    assert Samples(pairs) != Samples(pairs[:-1])
    assert Samples(pairs) != [*pairs[:-1], ("b", 6)]
    assert Samples(pairs) != Samples([*pairs[:-1], ("c", 5)])
    assert Samples([]) == []
    assert Samples(pairs) != "samples"
