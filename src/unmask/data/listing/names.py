"""Names and labels of many images in little memory: a million of them take no more than their characters and numbers.

Lists of Python objects take ten times as much, and each loader process comes to own a copy by counting references.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
from jaxtyping import Int, Int32, Int64, UInt8

BLOCK = 65_536  # names that are moved or read at once


class Names(Sequence[str]):
    """Texts as one run of UTF-8 and the places where each ends."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        text, ends = bytearray(), array("q", [0])
        for name in names:
            text += name.encode("utf-8", "surrogateescape")
            ends.append(len(text))
        self.text = np.frombuffer(text, dtype=np.uint8)
        self.ends = np.frombuffer(ends, dtype=np.int64)

    @classmethod
    def packed(
        cls, text: UInt8[np.ndarray, "C"], ends: Int64[np.ndarray, "N1"]
    ) -> "Names":
        """What is in this form already; text may reach beyond the first and the last name."""
        names = cls()
        names.text, names.ends = text, ends
        return names

    def not_text(self) -> str | None:
        """The first name that is no UTF-8: file systems allow any bytes."""
        start = int(self.ends[0])
        try:
            self.text[start : int(self.ends[-1])].tobytes().decode()
        except UnicodeDecodeError as error:
            return self[
                int(np.searchsorted(self.ends, start + error.start, side="right")) - 1
            ]
        return None

    def __len__(self) -> int:
        return len(self.ends) - 1

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> "Names": ...
    def __getitem__(self, i: int | slice) -> "str | Names":
        if isinstance(i, slice):
            start, stop, step = i.indices(len(self))
            if step == 1:  # the same memory
                return Names.packed(self.text, self.ends[start : max(start, stop) + 1])
            return self.take(np.arange(start, stop, step))
        k = range(len(self))[i]
        return (
            self.text[self.ends[k] : self.ends[k + 1]]
            .tobytes()
            .decode("utf-8", "surrogateescape")
        )

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), BLOCK):
            ends = self.ends[start : start + BLOCK + 1]
            text, places = (
                self.text[ends[0] : ends[-1]].tobytes(),
                (ends - ends[0]).tolist(),
            )
            for k in range(len(places) - 1):
                yield text[places[k] : places[k + 1]].decode("utf-8", "surrogateescape")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Names):
            return NotImplemented
        same = np.array_equal(self.ends - self.ends[0], other.ends - other.ends[0])
        return same and np.array_equal(self._used, other._used)

    __hash__ = None  # type: ignore[assignment]

    @property
    def _used(self) -> UInt8[np.ndarray, "C"]:
        return self.text[self.ends[0] : self.ends[-1]]

    def take(self, places: Int[np.ndarray, "M"]) -> "Names":
        """Those, in that order."""
        sizes = np.diff(self.ends)[places]
        ends = np.concatenate([[0], np.cumsum(sizes)])
        text = np.empty(int(ends[-1]), dtype=np.uint8)
        # a number for each character is eight times the text
        for start in range(0, len(places), BLOCK):
            block = slice(start, start + BLOCK)
            first, last = ends[start], ends[min(start + BLOCK, len(places))]
            shift = np.repeat(
                self.ends[:-1][places[block]] - ends[:-1][block], sizes[block]
            )
            text[first:last] = self.text[shift + np.arange(first, last)]
        return Names.packed(text, ends)


class Samples(Sequence[tuple[str, int]]):
    """(name, label) of each image of a split; equal to the same pairs in any sequence."""

    def __init__(self, pairs: Iterable[tuple[str, int]] = ()) -> None:
        labels = array("i")

        def names() -> Iterator[str]:
            for name, label in pairs:
                labels.append(label)
                yield name

        self.names = Names(names())
        self.labels = np.frombuffer(labels, dtype=np.int32)

    @classmethod
    def packed(cls, names: Names, labels: Int32[np.ndarray, "N"]) -> "Samples":
        samples = cls()
        samples.names, samples.labels = names, labels.astype(np.int32, copy=False)
        return samples

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, i: int) -> tuple[str, int]: ...
    @overload
    def __getitem__(self, i: slice) -> "Samples": ...
    def __getitem__(self, i: int | slice) -> "tuple[str, int] | Samples":
        if isinstance(i, slice):
            return Samples.packed(self.names[i], self.labels[i])
        return self.names[i], int(self.labels[i])

    def __iter__(self) -> Iterator[tuple[str, int]]:
        for k, name in enumerate(self.names):
            yield name, int(self.labels[k])

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Samples):
            return (
                np.array_equal(self.labels, other.labels) and self.names == other.names
            )
        if not isinstance(other, Sequence) or len(other) != len(self):
            return False
        return all(ours == theirs for ours, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]
