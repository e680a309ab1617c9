"""Catalogue of the images in a source, and how names become splits and classes.

A source is a folder or any container of shards; nothing here depends on which.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64

from unmask.data.listing.conventions import Splits, find_splits
from unmask.data.listing.names import FolderStore, Names, folder_slice, unpack_names
from unmask.data.listing.stores import Store
from unmask.storage.atomic import sha256

# Suffixes of shards, by `source`.
SHARD_SUFFIXES = {
    "webdataset": ".tar",
    "parquet": ".parquet",
    "litdata": ".bin",
    "raw": ".pixels",
}

# In a target of src/prepare.py: the first while it works, the second once it is done.
PREPARING_FOLDER = ".preparing"
PREPARED_FILE = "prepared.json"

# Labels of an image in no class folder, and in a class folder that training lacks.
NO_CLASS_FOLDER = -1
UNKNOWN_CLASS = -2


@dataclass(frozen=True)
class Catalogue:
    """List all images of a source, sorted by name.

    names: relative to the root, as in train/cat/1.jpg.
    sizes: bytes, or NOT_A_FILE.
    splits: the folders that the names begin with and that tell a split.
    digest: returns the sha256 of the image at an index.
    labels: indices into classes, of shards that store labels; None: class folders are
        the labels.
    identified_by_digest: the identity hashes every image's content, however many.
    notes: oddities that are not faults, in sentences.
    """

    names: Names
    sizes: Int64[np.ndarray, "N"]
    store: Store
    splits: tuple[str, ...]
    digest: Callable[[int], str]
    labels: Int32[np.ndarray, "N"] | None = None
    classes: tuple[str, ...] = ()
    identified_by_digest: bool = False
    notes: tuple[str, ...] = ()

    @property
    def chosen_splits(self) -> Splits:
        """Return the folders of training and validation; ValueError for two of one."""
        return find_splits(self.splits)

    @property
    def train_slice(self) -> slice:
        """Return the training images; without splits all are."""
        train = self.chosen_splits.train
        return folder_slice(self.names, train) if train else slice(len(self.names))


def catalogue_files(
    root: Path,
    names: Names,
    sizes: Int64[np.ndarray, "N"],
    splits: tuple[str, ...] = (),
) -> Catalogue:
    """Catalogue files below the root that are known by name and size."""
    store = FolderStore(root, names)
    return Catalogue(names, sizes, store, splits, lambda i: sha256(Path(store.name(i))))


@dataclass(frozen=True)
class ClassFolders:
    """Hold the folders that may be classes, and the folder of each image.

    folder_ids_N: indices into folders, or NO_CLASS_FOLDER.
    """

    folders: tuple[str, ...]
    folder_ids_N: Int32[np.ndarray, "N"]

    @classmethod
    def from_names(cls, depth: int, names: Names) -> "ClassFolders":
        """Collect the folders that lie `depth` folders below the root."""
        ids: dict[str, int] = {}
        folder_ids = np.empty(len(names), dtype=np.int32)
        for i, name in enumerate(unpack_names(names)):
            parts = name.split("/", depth + 1)
            is_in_folder = len(parts) > depth + 1
            folder_ids[i] = (
                ids.setdefault(parts[depth], len(ids))
                if is_in_folder
                else NO_CLASS_FOLDER
            )
        return cls(tuple(ids), folder_ids)

    def class_names(self, train: slice) -> tuple[str, ...]:
        """Return the class folders of training, sorted.

        There are none if a single training image lies outside a class folder.
        """
        ids = np.unique(self.folder_ids_N[train])
        # sorted, and NO_CLASS_FOLDER is the least
        if len(ids) and ids[0] == NO_CLASS_FOLDER:
            return ()
        return tuple(sorted(self.folders[i] for i in ids))

    def labels(self, classes: tuple[str, ...]) -> Int32[np.ndarray, "N"]:
        """Return each image's index into classes; -1 for all where there are none."""
        if not classes:
            return np.full(len(self.folder_ids_N), -1, dtype=np.int32)
        index = {name: i for i, name in enumerate(classes)}
        labels = [index.get(name, UNKNOWN_CLASS) for name in self.folders]
        # the last entry is what the folder id NO_CLASS_FOLDER = -1 reads
        table = np.array([*labels, NO_CLASS_FOLDER], dtype=np.int32)
        return table[self.folder_ids_N]

    def folders_of(self, indices: Int[np.ndarray, "M"]) -> list[str]:
        """Return the folders of these images, sorted, each once."""
        return sorted(self.folders[i] for i in np.unique(self.folder_ids_N[indices]))


def holdout_mask(
    labels_N: Int[np.ndarray, "N"], holdout: float
) -> Bool[np.ndarray, "N"]:
    """Choose the images that are held out for validation; True = held out.

    The share `holdout` of each class, to within one image and spread over it. Where no
    class is large enough for one image, the share of all images together.
    """
    # as it was typed: the float 0.29 times 100 is less than 29
    share = Fraction(str(holdout))
    positions, sizes = _positions_in_class(labels_N)
    largest = int(sizes.max(initial=0))
    # image k is held out where the running count floor(k * share) goes up
    chosen = [floor((k + 1) * share) > floor(k * share) for k in range(largest)]
    mask = np.array(chosen, dtype=bool)[positions]
    if not mask.any():
        # The second image in every few, but never one that is alone in its class:
        # training would not know the class.
        every = min(max(2, round(1 / holdout)), max(2, len(labels_N)))
        mask[np.flatnonzero(sizes > 1)[1::every]] = True
    return mask


def _positions_in_class(
    labels_N: Int[np.ndarray, "N"],
) -> tuple[Int[np.ndarray, "N"], Int[np.ndarray, "N"]]:
    """Return each image's position in its class, and the size of that class."""
    order = np.argsort(labels_N, kind="stable")
    _, starts, inverse, counts = np.unique(
        labels_N[order], return_index=True, return_inverse=True, return_counts=True
    )
    positions = np.empty_like(order)
    sizes = np.empty_like(order)
    positions[order] = np.arange(len(labels_N)) - starts[inverse]
    sizes[order] = counts[inverse]
    return positions, sizes


def require_finished(root: Path) -> None:
    """Raise ValueError if src/prepare.py began a conversion here and did not finish."""
    if (root / PREPARING_FOLDER).is_dir() and not (root / PREPARED_FILE).is_file():
        raise ValueError(
            f"data.root={root} is not finished: run the same src/prepare.py again; it"
            " continues where it stopped"
        )
