"""The images that a command takes, and their classes by folders or a list.

Imports no torch.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from unmask.commands.images import find_images
from unmask.config.checks import ConfigError
from unmask.data.listing.csv_lists import LIST_SUFFIXES, read_table
from unmask.data.listing.names import Names, pack_names, unpack_names

UNKNOWN = -1  # the label of an image that nothing gives a class of the classifier
SHOWN = 5  # names of classes in a message


@dataclass(frozen=True)
class WantedImages:
    """Name images below a folder, in the order in which they are taken.

    listed: the word for the class of each, in a list; None: folders may name classes.
    """

    root: Path
    names: Names
    listed: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def labels(self, classes: Sequence[str]) -> Int64[np.ndarray, "N"]:
        """Return the class of each image, UNKNOWN where it has none of these.

        A folder gives its images its class: the outermost one that is called as a
        class is. Raises ConfigError for a list without any of these classes.
        """
        numbers = {name: k for k, name in enumerate(classes)}
        if self.listed is None:
            found = (_class_of_path(name, numbers) for name in unpack_names(self.names))
        else:
            found = (numbers.get(word, UNKNOWN) for word in self.listed)
        labels_N = np.fromiter(found, np.int64, len(self))
        if self.listed is not None and (labels_N == UNKNOWN).all():
            raise ConfigError(
                f"images: none of the classes in the list ({_some(self.listed)}) is"
                f" one of the classifier's ({_some(classes)}); name them alike, or say"
                " with classes=FILE what the classifier's are called"
            )
        return labels_N


def find_wanted(images: Path, count: int | None) -> WantedImages:
    """Find an image, the images below a folder, or those of a list of path,label.

    count: how many, in order; None: all. Paths in a list are relative to its folder.
    Raises ConfigError where there are none, or the list cannot be understood.
    """
    if images.is_file() and images.suffix.lower() in LIST_SUFFIXES:
        return _read_list(images, count)
    root, names = find_images(images)
    return WantedImages(root, pack_names(names[:count]))


def _read_list(path: Path, count: int | None) -> WantedImages:
    try:
        rows = read_table(path)[:count]
    except ValueError as error:
        raise ConfigError(
            f"images={path}: {error}; a list has lines of path,label"
        ) from None
    if not rows:
        raise ConfigError(f"images={path}: no line names an image and its class")
    folder = path.parent
    # absolute paths too are read below the list's folder
    names = (os.path.relpath(folder / name, folder) for name, _ in rows)
    return WantedImages(folder, pack_names(names), tuple(str(word) for _, word in rows))


def _class_of_path(name: str, numbers: dict[str, int]) -> int:
    *folders, _ = name.split("/")
    return next((numbers[f] for f in folders if f in numbers), UNKNOWN)


def _some(words: Sequence[str]) -> str:
    different = list(islice(dict.fromkeys(words), SHOWN + 1))
    return ", ".join([*different[:SHOWN], *(["..."] if different[SHOWN:] else [])])
