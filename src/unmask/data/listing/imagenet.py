"""ImageNet's flat validation folder, sorted into classes by the devkit beside it."""

import itertools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from unmask.data.listing.catalogue import Catalogue
from unmask.data.listing.names import (
    FolderStore,
    folder_slice,
    pack_names,
    unpack_names,
)

DEVKIT_FOLDER = "ILSVRC2012_devkit_t12"
GROUND_TRUTH_FILE = "ILSVRC2012_validation_ground_truth.txt"
FLAT_VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.\w+")


def apply_devkit_labels(catalogue: Catalogue, root: Path) -> Catalogue:
    """Name flat validation images as they are named in class folders.

    So both layouts are one data set with one identity. Catalogues without a devkit,
    or with other validation images, are returned as they are. Raises ValueError where
    the devkit is damaged or lists fewer images than there are.
    """
    data = root / DEVKIT_FOLDER / "data"
    split = catalogue.chosen_splits.val
    if split is None or not data.is_dir():
        return catalogue
    val = folder_slice(catalogue.names, split)
    names = list(unpack_names(catalogue.names[val]))
    matches = [FLAT_VAL_NAME.fullmatch(name.partition("/")[2]) for name in names]
    numbers = [int(match[1]) for match in matches if match]
    if not numbers or len(numbers) < len(matches):
        return catalogue

    folders = read_ground_truth(data)
    if max(numbers) > len(folders):
        raise ValueError(
            f"{data / GROUND_TRUTH_FILE} has {len(folders)} lines, but there is a"
            f" validation image {max(numbers)}"
        )
    # the devkit counts images from 1
    new_names = [
        f"{split}/{folders[number - 1]}/{name.rpartition('/')[2]}"
        for number, name in zip(numbers, names, strict=True)
    ]
    return _rename_slice(catalogue, root, val, new_names)


def _rename_slice(
    catalogue: Catalogue, root: Path, part: slice, new_names: list[str]
) -> Catalogue:
    """Rename the images of a slice and sort it again; files keep their paths."""
    order = np.array(sorted(range(len(new_names)), key=new_names.__getitem__))
    indices = np.arange(len(catalogue.names))
    indices[part] = indices[part][order]
    before = unpack_names(catalogue.names[: part.start])
    after = unpack_names(catalogue.names[part.stop :])
    renamed = (new_names[i] for i in order)
    return replace(
        catalogue,
        names=pack_names(itertools.chain(before, renamed, after)),
        sizes=catalogue.sizes[indices],
        store=FolderStore(root, catalogue.names.take(indices)),
        digest=lambda i: catalogue.digest(int(indices[i])),
    )


def read_ground_truth(data: Path) -> list[str]:
    """Read the class folder (WordNet id) of each validation image from the devkit.

    data: the devkit's folder data/. Raises ValueError where it cannot be read.
    """
    # imported here, for scipy is slow to import and few folders have a devkit
    from scipy.io import loadmat

    try:
        lines = (data / GROUND_TRUTH_FILE).read_text().split()
        synsets = loadmat(str(data / "meta.mat"), squeeze_me=True)["synsets"]
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{data} cannot be read ({error}); unpack ILSVRC2012_devkit_t12.tar.gz"
            " again"
        ) from None
    # synsets with children are groups of classes, not classes
    wnids = {
        int(row["ILSVRC2012_ID"]): str(row["WNID"])
        for row in synsets
        if int(row["num_children"]) == 0
    }
    return [wnids[int(line)] for line in lines]
