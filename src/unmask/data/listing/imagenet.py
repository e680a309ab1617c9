"""ImageNet's own names: its images' class folders from the devkit, or from what the names themselves say."""

import itertools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from unmask.data.listing.catalogue import VAL_NAMES, Catalogue, within
from unmask.data.listing.names import Names
from unmask.data.listing.stores import Folder

DEVKIT = "ILSVRC2012_devkit_t12"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
FLAT = re.compile(r"(?:val|validation)/ILSVRC2012_val_(\d{8})\.\w+")


def with_devkit(found: Catalogue, root: Path) -> Catalogue:
    """Flat validation images under the names that they have in class folders, so that both are one data set."""
    data = root / DEVKIT / "data"
    folder = next((name for name in VAL_NAMES if name in found.splits), None)
    if folder is None or not data.is_dir():
        return found
    val = within(found.names, folder)
    matched = [FLAT.fullmatch(name) for name in found.names[val]]
    numbers = [int(match[1]) for match in matched if match]
    if not numbers or len(numbers) < len(matched):
        return found
    truth = ground_truth(data)
    if max(numbers) > len(truth):
        raise ValueError(
            f"{data / TRUTH} has {len(truth)} lines, but there is a validation image"
            f" {max(numbers)}"
        )
    named = [
        f"{folder}/{truth[number - 1]}/{name.rpartition('/')[2]}"
        for number, name in zip(numbers, found.names[val], strict=True)
    ]
    order = np.array(sorted(range(len(named)), key=named.__getitem__))
    places = np.arange(len(found.names))
    places[val] = places[val][order]
    before, after = found.names[: val.start], found.names[val.stop :]
    names = Names(itertools.chain(before, (named[i] for i in order), after))
    physical = found.names.take(places)
    store = Folder(root, physical)
    return replace(
        found,
        names=names,
        sizes=found.sizes[places],
        store=store,
        digest=lambda i: found.digest(int(places[i])),
    )


def ground_truth(data: Path) -> list[str]:
    """The class folder (WordNet id) of each validation image."""
    from scipy.io import loadmat

    try:
        lines = (data / TRUTH).read_text().split()
        synsets = loadmat(str(data / "meta.mat"), squeeze_me=True)["synsets"]
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{data} cannot be read ({error}); unpack ILSVRC2012_devkit_t12.tar.gz"
            " again"
        ) from None
    leaves = {
        int(row["ILSVRC2012_ID"]): str(row["WNID"])
        for row in synsets
        if int(row["num_children"]) == 0
    }
    return [leaves[int(line)] for line in lines]
