"""Names and labels in arrays behave like the lists that they replace."""

import numpy as np
import pytest

from unmask.data.listing.names import LabelledNames, Names

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
    names = Names(WORDS)
    pairs = LabelledNames(zip(WORDS, range(6), strict=True))
    assert list(names[part]) == WORDS[part]
    assert list(names[1:][part]) == WORDS[1:][part]
    assert names[part] == Names(WORDS[part])
    assert pairs[part] == list(zip(WORDS, range(6), strict=True))[part]


def test_a_slice_shares_memory() -> None:
    names = Names(map(str, range(1000)))
    assert np.shares_memory(names[10:900].text, names.text)
    assert names[10:900][5] == "15"


def test_names_are_taken_in_any_order_and_repeatedly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # so that several blocks are copied
    monkeypatch.setattr("unmask.data.listing.names.BLOCK", 4)
    names = Names(WORDS)
    indices = np.random.default_rng(0).integers(0, 6, 50)
    assert list(names.take(indices)) == [WORDS[i] for i in indices]
    part = names[2:].take(indices % 4)
    assert list(part) == [WORDS[2 + i % 4] for i in indices]
    assert list(names.take(indices[:0])) == []


@pytest.mark.parametrize("i", [6, -7])
def test_an_index_beyond_the_end_is_an_error(i: int) -> None:
    with pytest.raises(IndexError):
        Names(WORDS)[i]


def test_labelled_names_are_equal_only_to_the_same_pairs() -> None:
    pairs = [(word, i) for i, word in enumerate(WORDS)]
    assert LabelledNames(pairs) == LabelledNames(iter(pairs)) == tuple(pairs)
    assert LabelledNames(pairs) != LabelledNames(pairs[:-1])
    assert LabelledNames(pairs) != [*pairs[:-1], ("b", 6)]
    assert LabelledNames(pairs) != LabelledNames([*pairs[:-1], ("c", 5)])
    assert LabelledNames([]) == []
    assert LabelledNames(pairs) != "samples"
