"""Names and labels of many images in little memory: a million of them take no more than their characters and numbers.

Lists of Python objects take ten times as much, and each loader process comes to own a copy by counting references.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np


class Names(Sequence[str]):
    """Texts as one run of UTF-8 and the places where each ends."""

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        self.text = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self.ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ends) - 1

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> "Names": ...
    def __getitem__(self, i: int | slice) -> "str | Names":
        if isinstance(i, slice):
            return Names(self[k] for k in range(*i.indices(len(self))))
        k = range(len(self))[i]
        return self.text[self.ends[k] : self.ends[k + 1]].tobytes().decode("utf-8", "surrogateescape")


class Samples(Sequence[tuple[str, int]]):
    """(name, label) of each image of a split; equal to the same pairs in any sequence."""

    def __init__(self, pairs: Iterable[tuple[str, int]]) -> None:
        pairs = list(pairs)
        self.names = Names(name for name, _ in pairs)
        self.labels = np.array([label for _, label in pairs], dtype=np.int32)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, i: int) -> tuple[str, int]: ...
    @overload
    def __getitem__(self, i: slice) -> "Samples": ...
    def __getitem__(self, i: int | slice) -> "tuple[str, int] | Samples":
        if isinstance(i, slice):
            return Samples(self[k] for k in range(*i.indices(len(self))))
        return self.names[i], int(self.labels[i])

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]
