"""Names and labels of many images in arrays, which take no more than their characters.

Lists of Python objects take ten times as much memory, and every loader worker ends up
with a copy: counting references writes to the pages that processes share.
"""

import errno
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG, filemode
from typing import overload

import numpy as np
from jaxtyping import Int, Int32, Int64, UInt8

BLOCK = 65_536  # names that are copied or decoded at once


class Names(Sequence[str]):
    """Hold strings as one run of UTF-8 bytes and the offsets where each ends."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        text, ends = bytearray(), array("q", [0])
        for name in names:
            text += name.encode("utf-8", "surrogateescape")
            ends.append(len(text))
        self.text = np.frombuffer(text, dtype=np.uint8)
        self.ends = np.frombuffer(ends, dtype=np.int64)

    @classmethod
    def from_arrays(
        cls, text: UInt8[np.ndarray, "C"], ends: Int64[np.ndarray, "N1"]
    ) -> "Names":
        """Wrap arrays of this form; text may reach beyond the first and last name."""
        names = cls()
        names.text, names.ends = text, ends
        return names

    def first_non_utf8(self) -> str | None:
        """Return the first name that is not valid UTF-8: file systems allow any bytes.

        Return None where all names are valid.
        """
        start = int(self.ends[0])
        try:
            self.text[start : int(self.ends[-1])].tobytes().decode()
        except UnicodeDecodeError as error:
            offset = start + error.start
            return self[int(np.searchsorted(self.ends, offset, side="right")) - 1]
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
            if step == 1:
                # shares the memory of these names
                ends = self.ends[start : max(start, stop) + 1]
                return Names.from_arrays(self.text, ends)
            return self.take(np.arange(start, stop, step))
        k = range(len(self))[i]
        encoded = self.text[self.ends[k] : self.ends[k + 1]].tobytes()
        return encoded.decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), BLOCK):
            ends = self.ends[start : start + BLOCK + 1]
            text = self.text[ends[0] : ends[-1]].tobytes()
            offsets = (ends - ends[0]).tolist()
            for k in range(len(offsets) - 1):
                encoded = text[offsets[k] : offsets[k + 1]]
                yield encoded.decode("utf-8", "surrogateescape")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Names):
            return NotImplemented
        same = np.array_equal(self.ends - self.ends[0], other.ends - other.ends[0])
        return same and np.array_equal(self._used_text, other._used_text)

    __hash__ = None  # type: ignore[assignment]

    @property
    def _used_text(self) -> UInt8[np.ndarray, "C"]:
        return self.text[self.ends[0] : self.ends[-1]]

    def take(self, indices: Int[np.ndarray, "M"]) -> "Names":
        """Copy the names at these indices, in this order."""
        sizes = np.diff(self.ends)[indices]
        ends = np.concatenate([[0], np.cumsum(sizes)])
        text = np.empty(int(ends[-1]), dtype=np.uint8)
        # In blocks: an index for each character is eight times the text.
        for start in range(0, len(indices), BLOCK):
            block = slice(start, start + BLOCK)
            first, last = ends[start], ends[min(start + BLOCK, len(indices))]
            starts = self.ends[:-1][indices[block]]
            shift = np.repeat(starts - ends[:-1][block], sizes[block])
            text[first:last] = self.text[shift + np.arange(first, last)]
        return Names.from_arrays(text, ends)


class LabelledNames(Sequence[tuple[str, int]]):
    """Hold (name, label) of each image of a split.

    Equal to any sequence of the same pairs.
    """

    def __init__(self, pairs: Iterable[tuple[str, int]] = ()) -> None:
        labels = array("i")

        def names() -> Iterator[str]:
            for name, label in pairs:
                labels.append(label)
                yield name

        self.names = Names(names())
        self.labels = np.frombuffer(labels, dtype=np.int32)

    @classmethod
    def from_arrays(
        cls, names: Names, labels: Int32[np.ndarray, "N"]
    ) -> "LabelledNames":
        """Wrap names and labels of one length, without a copy."""
        pairs = cls()
        pairs.names = names
        pairs.labels = labels.astype(np.int32, copy=False)
        return pairs

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, i: int) -> tuple[str, int]: ...
    @overload
    def __getitem__(self, i: slice) -> "LabelledNames": ...
    def __getitem__(self, i: int | slice) -> "tuple[str, int] | LabelledNames":
        if isinstance(i, slice):
            return LabelledNames.from_arrays(self.names[i], self.labels[i])
        return self.names[i], int(self.labels[i])

    def __iter__(self) -> Iterator[tuple[str, int]]:
        for k, name in enumerate(self.names):
            yield name, int(self.labels[k])

    def __eq__(self, other: object) -> bool:
        if isinstance(other, LabelledNames):
            same_labels = np.array_equal(self.labels, other.labels)
            return same_labels and self.names == other.names
        if not isinstance(other, Sequence) or len(other) != len(self):
            return False
        return all(ours == theirs for ours, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class FolderStore:
    """Read files below a root folder."""

    root: Path
    names: Names

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        return f"{self.root}/{self.names[i]}"

    def read(self, i: int) -> bytes:
        # O_NONBLOCK: opening a named pipe would wait for a writer, perhaps for ever
        file = os.open(self.name(i), os.O_RDONLY | os.O_NONBLOCK)
        try:
            status = os.fstat(file)
            if not S_ISREG(status.st_mode):
                mode = filemode(status.st_mode)
                raise OSError(errno.EINVAL, f"it is not a file ({mode})")
            return _read_all(file, status.st_size)
        finally:
            os.close(file)


def _read_all(file: int, size: int) -> bytes:
    content = os.read(file, size + 1)
    # One call returns 2 GB at most, and less on some file systems.
    while len(content) < size:
        more = os.read(file, size - len(content))
        if not more:
            break
        content += more
    return content
