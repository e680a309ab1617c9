"""Names in Arrow arrays come back as they were, and are not copied needlessly."""

import pickle

import numpy as np
import pytest

from unmask.data.listing.catalogue import folder_slice
from unmask.data.listing.names import (
    LabelledNames,
    name_at,
    pack_names,
    unpack_names,
)

WORDS = ["train/é/1.jpg", "", "b", "日本/2.png", "bad\udcff.jpg", "b"]


def test_names_come_back_whatever_bytes_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # so that several blocks are unpacked
    monkeypatch.setattr("unmask.data.listing.names.BLOCK", 4)
    names = pack_names(iter(WORDS))
    assert list(unpack_names(names)) == WORDS
    assert [name_at(names, i) for i in range(6)] == WORDS
    assert list(unpack_names(names[1:4])) == WORDS[1:4]
    assert name_at(names[2:], 1) == WORDS[3]
    assert list(unpack_names(pickle.loads(pickle.dumps(names[3:])))) == WORDS[3:]
    assert list(unpack_names(pack_names([]))) == []


def test_names_are_taken_in_any_order_and_repeatedly() -> None:
    names = pack_names(WORDS)
    indices = np.random.default_rng(0).integers(0, 6, 50)
    assert list(unpack_names(names.take(indices))) == [WORDS[i] for i in indices]
    part = names[2:].take(indices % 4)
    assert list(unpack_names(part)) == [WORDS[2 + i % 4] for i in indices]
    assert len(names.take(indices[:0])) == 0


def test_a_slice_shares_memory() -> None:
    names = pack_names(map(str, range(1000)))
    addresses = [buffer.address for buffer in names.buffers() if buffer]
    part = names[10:900]
    assert [buffer.address for buffer in part.buffers() if buffer] == addresses
    assert name_at(part, 5) == "15"


@pytest.mark.parametrize("i", [6, -7])
def test_an_index_beyond_the_end_is_an_error(i: int) -> None:
    with pytest.raises(IndexError):
        name_at(pack_names(WORDS), i)


def test_a_folder_is_found_among_names_that_only_begin_alike() -> None:
    names = sorted(["val-old/1", "val/1", "val/2", "val0/1", "val", "é/1"])
    assert names[folder_slice(pack_names(names), "val")] == ["val/1", "val/2"]
    assert names[folder_slice(pack_names(names), "test")] == []


def test_labelled_names_are_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.data.listing.names.BLOCK", 4)
    split = LabelledNames(pack_names(WORDS), np.arange(6, dtype=np.int32))
    assert list(split) == list(zip(WORDS, range(6), strict=True))
    assert len(split) == 6
