"""The image files below folders, in the order of their names, with their sizes: a million in little memory."""

import os
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from stat import S_ISREG

import numpy as np
from jaxtyping import Int64

from unmask.data.listing.names import Names

SUFFIXES = frozenset(
    [
        ".png",
        ".jpg",
        ".jpeg",
        ".bmp",
        ".webp",
        ".tif",
        ".tiff",
        ".gif",
        ".ppm",
        ".pgm",
        ".npy",
    ]
)

NO_FILE = -1


def is_image(name: str) -> bool:
    """By its suffix; hidden files are none."""
    base = name.rpartition("/")[2]
    return os.path.splitext(base)[1].lower() in SUFFIXES and base[0] != "."


def scan(root: Path, folders: Sequence[Path]) -> tuple[Names, Int64[np.ndarray, "N"]]:
    """Names relative to the root, and bytes (NO_FILE). Raises ValueError with the folder that cannot be read."""
    sizes = array("q")

    def found() -> Iterator[str]:
        for folder in sorted(folders):
            prefix = "" if folder == root else f"{folder.relative_to(root)}/"
            for name, path in _files(str(folder), prefix, ()):
                sizes.append(size_of(path))
                yield name

    try:
        return Names(found()), np.frombuffer(sizes, dtype=np.int64)
    except OSError as error:
        raise ValueError(
            f"{error.filename} cannot be read ({error.strerror}); unlock it, or move it"
            " away"
        ) from None


def size_of(path: str) -> int:
    """Bytes; NO_FILE for what is none: a link may lead nowhere, and a pipe would never end."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return NO_FILE
    return status.st_size if S_ISREG(status.st_mode) else NO_FILE


def _files(
    folder: str, prefix: str, above: tuple[str, ...]
) -> Iterator[tuple[str, str]]:
    """(name, path); a folder counts with the slash after it, so that whole names are in order. Links are followed."""
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that it lies in
        return
    with os.scandir(folder) as entries:
        names = sorted(
            f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries
        )
    for name in names:
        if name[-1] == "/":
            yield from _files(f"{folder}/{name[:-1]}", prefix + name, (*above, real))
        elif is_image(name):
            yield prefix + name, f"{folder}/{name}"
