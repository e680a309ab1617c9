"""Identity of a set of images: a hash of classes, names, labels and contents.

It never depends on where the files lie. Of large sets it contains sizes in place of
contents, since reading all files would delay the start of every run.
"""

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, Int64

from unmask.data.listing.catalogue import Catalogue, catalogue_files
from unmask.data.listing.names import LabelledNames, Names, unpack_names
from unmask.data.listing.odd_folders import UNREADABLE
from unmask.data.listing.scan import NOT_A_FILE

# Up to here every file is hashed, which takes about a second.
MAX_HASHED_FILES = 20_000
MAX_HASHED_BYTES = 2**28

# Always hashed: their size stays the same when pixels change.
UNCOMPRESSED_SUFFIXES = frozenset([".npy", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"])


def content_keys(
    catalogue: Catalogue, splits: Sequence[Int[np.ndarray, "_"]]
) -> Iterator[str]:
    """Yield what the identity knows of each image's content, split after split.

    The sha256 in small sets and of uncompressed files, else the size, or UNREADABLE.
    """
    indices = np.concatenate(splits)
    sizes = catalogue.sizes[indices]
    is_small = (
        len(indices) <= MAX_HASHED_FILES
        and int(sizes.clip(0).sum()) <= MAX_HASHED_BYTES
    )
    hash_all = catalogue.identified_by_digest or is_small
    names = itertools.chain.from_iterable(
        unpack_names(take_names(catalogue.names, split)) for split in splits
    )
    for i, size, name in zip(indices.tolist(), sizes.tolist(), names, strict=True):
        suffix = os.path.splitext(name)[1].lower()
        if size == NOT_A_FILE:
            yield UNREADABLE
        elif hash_all or suffix in UNCOMPRESSED_SUFFIXES:
            yield _digest(catalogue, i)
        else:
            yield str(size)


def _digest(catalogue: Catalogue, i: int) -> str:
    try:
        return catalogue.digest(i)
    except OSError:
        # the run reports the file and reads a substitute
        return UNREADABLE


def file_content_keys(
    root: Path, names: Names, sizes: Int64[np.ndarray, "N"]
) -> Iterator[str]:
    """Yield the content keys of files below the root, known by name and size."""
    return content_keys(catalogue_files(root, names, sizes), (np.arange(len(names)),))


def take_names(names: Names, indices: Int[np.ndarray, "M"]) -> Names:
    """Return names by index; consecutive ones share memory instead of being copied."""
    if len(indices) and indices[-1] - indices[0] == len(indices) - 1:
        return names[indices[0] : indices[-1] + 1]
    return names.take(indices)


def compute_identity(
    splits: Sequence[LabelledNames], keys: Iterable[str], classes: tuple[str, ...]
) -> str:
    """Hash the classes and each image's name, label and content key.

    Returns 16 hexadecimal digits, which fingerprints of runs contain.
    """
    lines = (
        f"{name}\0{key}\0{label}"
        for (name, label), key in zip(itertools.chain(*splits), keys, strict=True)
    )
    digest = hashlib.sha256()
    separator = ""
    for line in itertools.chain(classes, lines):
        # surrogateescape: names of files may be any bytes
        digest.update((separator + line).encode("utf-8", "surrogateescape"))
        separator = "\n"
    return digest.hexdigest()[:16]
