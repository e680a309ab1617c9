"""A source with labels and splits in lists beside the images: train.csv, val.csv."""

from pathlib import Path
from posixpath import normpath

import numpy as np

from unmask.data.containers.naming import named_splits
from unmask.data.listing.catalogue import Catalogue, ClassFolders
from unmask.data.listing.conventions import split_word
from unmask.data.listing.csv_lists import find_lists
from unmask.data.listing.listing import Listing
from unmask.data.listing.names import FolderStore, pack_names, unpack_names
from unmask.data.listing.scan import file_size
from unmask.data.sources import list_source
from unmask.storage.atomic import sha256

# of a list without validation images: they are joined with the others again
HOLDOUT = 0.1


def train_list(root: Path, catalogue: Catalogue) -> Path | None:
    """Return the list that tells labels; None where class folders in train/ do."""
    found = find_lists(root).train
    has_train = catalogue.chosen_splits.train is not None
    folders = ClassFolders.from_names(int(has_train), catalogue.names)
    if has_train and len(folders.class_names(catalogue.train_slice)) > 1:
        return None
    return found


def catalogue_lists(root: Path, has_val: bool) -> Catalogue:
    """Catalogue listed images with their labels, below folders of their splits.

    has_val: whether the lists tell validation images. Raises ValueError where a list
    cannot be understood.
    """
    listing = list_source("listed", root, HOLDOUT)
    rows = sorted(set(_rows(listing, has_val)))
    names = pack_names(name for name, _, _ in rows)
    store = FolderStore(root, pack_names(path for _, path, _ in rows))
    paths = [str(root / path) for path in unpack_names(store.names)]
    return Catalogue(
        names,
        np.array([file_size(path) for path in paths], dtype=np.int64),
        store,
        named_splits(names),
        lambda i: sha256(Path(store.name(i))),
        np.array([label for _, _, label in rows], dtype=np.int32),
        listing.classes,
    )


def _rows(listing: Listing, has_val: bool) -> list[tuple[str, str, int]]:
    """Return (name in the target, path below the root, label) of each image."""
    rows = []
    for split, images in (("train", listing.train), ("val", listing.val)):
        for path, label in images:
            name = normpath(path)
            folder = name.partition("/")[0]
            # a folder that is called as a split is one in the target
            if has_val and split_word(folder) != split:
                name = f"{split}/{name}"
            elif not has_val and split_word(folder) not in (None, "train"):
                name = f"train/{name}"
            rows.append((name, path, label))
    return rows
