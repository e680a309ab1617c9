"""Names of many images as Arrow arrays, which take no more than their characters.

Lists of Python objects take ten times as much memory, and every loader worker ends up
with a copy: counting references writes to the pages that processes share.
"""

import errno
import os
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from stat import S_ISREG, filemode
from typing import Any

import numpy as np
from jaxtyping import Int32

# A pyarrow.LargeBinaryArray of UTF-8; bytes that are none are kept by surrogateescape.
# pyarrow is imported where names are packed: runs on arrays start faster without it.
Names = Any

BLOCK = 65_536  # names that are unpacked at once


def pack_names(names: Iterable[str]) -> Names:
    """Pack names one by one, so that they never stand in memory as objects."""
    import pyarrow as pa

    text, ends = bytearray(), array("q", [0])
    for name in names:
        text += name.encode("utf-8", "surrogateescape")
        ends.append(len(text))
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(text)]
    return pa.Array.from_buffers(pa.large_binary(), len(ends) - 1, buffers)


def utf8_name(name: str) -> str:
    r"""Return a name as Parquet stores texts: bytes that are no UTF-8 become \udcff."""
    return name.encode("utf-8", "backslashreplace").decode()


def name_at(names: Names, i: int) -> str:
    return names[i].as_py().decode("utf-8", "surrogateescape")


def unpack_names(names: Names) -> Iterator[str]:
    """Yield all names; faster than one by one."""
    for start in range(0, len(names), BLOCK):
        for name in names[start : start + BLOCK].to_pylist():
            yield name.decode("utf-8", "surrogateescape")


def folder_slice(names: Names, folder: str) -> slice:
    """Return the slice of sorted names that begin with folder/."""
    # the character 0 follows the slash in UTF-8
    start, stop = (
        bisect_left(range(len(names)), bound, key=partial(name_at, names))
        for bound in (f"{folder}/", f"{folder}0")
    )
    return slice(start, stop)


def top_folders(names: Names) -> list[str]:
    """Return the first folders of sorted names, each once."""
    import pyarrow.compute as pc

    below = names.filter(pc.greater_equal(pc.find_substring(names, "/"), 0))
    folders: list[str] = []
    while len(below):
        folders.append(name_at(below, 0).partition("/")[0])
        below = below[folder_slice(below, folders[-1]).stop :]
    return folders


@dataclass(frozen=True, eq=False)
class LabelledNames:
    """Hold the names and labels of the images of a split; yield them in pairs."""

    names: Names
    labels: Int32[np.ndarray, "N"]

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        for start in range(0, len(self), BLOCK):
            part = slice(start, start + BLOCK)
            yield from zip(
                unpack_names(self.names[part]), self.labels[part].tolist(), strict=True
            )


@dataclass(frozen=True)
class FolderStore:
    """Read files below a root folder."""

    root: Path
    names: Names

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        return f"{self.root}/{name_at(self.names, i)}"

    def read(self, i: int) -> bytes:
        return read_file(self.name(i))


def read_file(path: str) -> bytes:
    """Read a file. Raises OSError also for what is no file, such as a pipe."""
    # O_NONBLOCK: opening a named pipe would wait for a writer, perhaps for ever
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
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
