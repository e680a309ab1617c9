"""Find the image files below folders with their sizes: a million in little memory."""

import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG

import numpy as np
from jaxtyping import Int64

from unmask.data.listing.conventions import has_image_suffix, is_hidden, is_image
from unmask.data.listing.names import Names, pack_names

# The size of a path that is not a regular file.
NOT_A_FILE = -1


def scan_folders(
    root: Path, folders: Sequence[Path]
) -> tuple[Names, Int64[np.ndarray, "N"]]:
    """Return the names of all images below the folders, and their sizes.

    Names are relative to the root and sorted; sizes are bytes, or NOT_A_FILE.
    Raises ValueError with the path of a folder that cannot be read.
    """
    sizes = array("q")

    def names() -> Iterator[str]:
        for folder in sorted(folders):
            prefix = "" if folder == root else f"{folder.relative_to(root)}/"
            for name, path in _walk(str(folder), prefix, ()):
                # appended here, so that sizes and names keep the same order
                sizes.append(file_size(path))
                yield name

    with _named_errors():
        return pack_names(names()), np.frombuffer(sizes, dtype=np.int64)


def list_folders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted; without hidden ones.

    Raises ValueError with the path of a folder that cannot be read.
    """
    with _named_errors(), os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.is_dir() and not is_hidden(entry.name)
        )


def holds_images(folder: Path) -> bool:
    """Say whether images lie in a folder itself, not only in folders below it."""
    with _named_errors(), os.scandir(folder) as entries:
        return any(is_image(entry.name) and not entry.is_dir() for entry in entries)


@contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{error.filename} cannot be read ({error.strerror}); change its"
            " permissions, or move it away"
        ) from None


def file_size(path: str) -> int:
    """Return the size in bytes, or NOT_A_FILE.

    A link may lead nowhere, and reading a named pipe would never end.
    """
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return NOT_A_FILE
    return status.st_size if S_ISREG(status.st_mode) else NOT_A_FILE


def _walk(
    folder: str, prefix: str, parents: tuple[str, ...]
) -> Iterator[tuple[str, str]]:
    """Yield (name, path) in the order of full names, following links."""
    real = os.path.realpath(folder)
    # a link to a folder that contains it would lead round for ever
    if real in parents:
        return
    # Folders are compared with their slash: of full names a-b/1 sorts before a/1,
    # though a sorts before a-b.
    with os.scandir(folder) as entries:
        names = sorted(
            f"{entry.name}/" if entry.is_dir() else entry.name
            for entry in entries
            if not is_hidden(entry.name)
        )
    for name in names:
        if name.endswith("/"):
            path = f"{folder}/{name[:-1]}"
            yield from _walk(path, prefix + name, (*parents, real))
        elif has_image_suffix(name):
            yield prefix + name, f"{folder}/{name}"
