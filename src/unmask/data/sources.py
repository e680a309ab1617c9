"""Data sets by name: folders of images, containers, and labels in files beside them.

Imports no torch, for the same reason as `unmask.data.listing.listing`.
"""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np

from unmask.data.listing.annotations import Annotations, label_rows, read_annotations
from unmask.data.listing.identity import compute_identity, file_content_keys
from unmask.data.listing.listing import Listing, list_images
from unmask.data.listing.names import LabelledNames, Names
from unmask.data.listing.scan import NOT_A_FILE, file_size

# What data.root must hold, by data set.
EXPECTED_LAYOUTS = {
    "inat2017": "train2017.json, val2017.json, train_val_images/",
    "inat2018": "train2018.json, val2018.json, train_val2018/",
    "inat2019": "train2019.json, val2019.json, train_val2019/",
    "places205": (
        "trainvalsplit_places205/train_places205.csv,"
        " trainvalsplit_places205/val_places205.csv,"
        " data/vision/torralba/deeplearning/images256/"
    ),
    "places365": (
        "categories_places365.txt, places365_train_standard.txt, places365_val.txt, and"
        " data_256/ with val_256/ or data_large/ with val_large/"
    ),
    "listed": (
        "train.csv with lines of path,label, the images at those paths, and val.csv"
        " unless a share of train.csv is held out"
    ),
}


def list_source(
    source: str, root: str | Path, holdout: float = 0.1, container: str = "folder"
) -> Listing:
    """List the images of a data set.

    holdout: the share of training that becomes validation where there is none.
    Raises ValueError with the expected layout where something is missing, and with the
    line where a list cannot be understood.
    """
    if container != "folder":
        # imported here: folders need none of the containers' libraries
        from unmask.data.containers.source import list_container

        return list_container(container, str(root), holdout)
    if source == "image_folder":
        return list_images(root, holdout)
    root = Path(root).expanduser()
    try:
        return _to_listing(root, read_annotations(source, root, holdout))
    except OSError as error:
        reason = (
            "is not there"
            if isinstance(error, FileNotFoundError)
            else f"cannot be read ({error.strerror})"
        )
        raise ValueError(
            f"{error.filename} {reason}; data={source} expects in data.root={root}:"
            f" {EXPECTED_LAYOUTS[source]}"
        ) from None


def _to_listing(root: Path, annotations: Annotations) -> Listing:
    # numbers before words, each in their order
    keys = sorted(annotations.class_names, key=lambda key: (isinstance(key, str), key))
    index = {key: i for i, key in enumerate(keys)}
    # Sorted by name: the ids of samples, and the randomness that is drawn by them,
    # must not depend on the order of lines.
    train, val = (
        LabelledNames(sorted(label_rows(rows, index, root)))
        for rows in (annotations.train, annotations.val)
    )
    if not train or not val:
        raise ValueError(
            f"the lists in data.root={root} name {len(train)} training and {len(val)}"
            " validation images; both need one"
        )
    names = Names(itertools.chain(train.names, val.names))
    sizes = np.array([file_size(str(root / name)) for name in names], dtype=np.int64)
    _require_files(root, train, sizes[: len(train)])
    _require_files(root, val, sizes[len(train) :])

    class_names = _unique_class_names(annotations)
    # Keys, not names: iNaturalist published the names of its species later, for the
    # same images and labels.
    identity = compute_identity(
        (train, val),
        file_content_keys(root, names, sizes),
        tuple(map(str, keys)),
    )
    return Listing(
        root,
        train,
        val,
        tuple(class_names[key] for key in keys),
        identity,
        notes=_missing_files_note(names, sizes),
    )


def _require_files(root: Path, split: LabelledNames, sizes: np.ndarray) -> None:
    """Raise an error where no image of a split is a file."""
    if (sizes == NOT_A_FILE).all():
        first = root / split[0][0]
        # raises OSError for images that were never unpacked: the layout is shown
        first.stat()
        raise ValueError(
            f"none of {len(split)} listed images is a file; the first is {first}"
        )


def _missing_files_note(names: Names, sizes: np.ndarray) -> tuple[str, ...]:
    missing = sizes == NOT_A_FILE
    if not missing.any():
        return ()
    first = names[int(missing.argmax())]
    return (
        f"{missing.sum()} of {len(missing)} listed images are not there or cannot be"
        f" read: {first}",
    )


def _unique_class_names(annotations: Annotations) -> dict[int | str, str]:
    """Return the name of each class, with its key where classes share a name."""
    counts = Counter(annotations.class_names.values())
    return {
        key: f"{name} ({key})" if counts[name] > 1 else name
        for key, name in annotations.class_names.items()
    }


CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach
couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster
house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road
rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip
turtle wardrobe whale willow_tree wolf woman worm
"""

# The classes of data sets that come as arrays and are not listed, in their order.
CLASS_NAMES = {
    "mnist5k": tuple("0123456789"),
    "cifar10": tuple(CIFAR10.split()),
    "cifar100": tuple(CIFAR100.split()),
}
