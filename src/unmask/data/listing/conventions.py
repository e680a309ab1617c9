"""What names say: of a file or folder, of a split, of a column, of a class.

Folders, lists and shards are read by these rules alone, whichever command reads them.
"""

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from unmask.config.datasets import ClassKey

IMAGE_SUFFIXES = frozenset(
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

# What systems and programs leave among images, in lower case; names that begin with a
# dot need no entry.
SYSTEM_NAMES = frozenset(
    [
        # macOS, in archives and on shared disks
        "__macosx",
        "network trash folder",
        "temporary items",
        "thevolumesettingsfolder",
        # Windows
        "$recycle.bin",
        "recycler",
        "system volume information",
        # Linux
        "lost+found",
        # disk stations of Synology and QNAP
        "@eadir",
        "@tmp",
        "@recycle",
        "@recently-snapshot",
        "#recycle",
        "#snapshot",
        # Python
        "__pycache__",
    ]
)

# Words for the splits; of several validation folders the first of these is taken.
TRAIN_WORDS = ("train", "training")
VAL_WORDS = (
    "val",
    "valid",
    "validation",
    "test",
    "testing",
    "dev",
    "eval",
    "evaluation",
)
SPLIT_WORDS = (*TRAIN_WORDS, *VAL_WORDS)
# Words that may stand beside a split's word: training_set, train_images.
FILLERS = frozenset(["", "data", "image", "images", "img", "imgs", "split"])

# Columns and keys that hold an image's path or content, and its class; best first.
IMAGE_COLUMNS = (
    *("image", "img", "jpg", "jpeg", "png", "path", "file", "filename", "file_name"),
    *("filepath", "file_path", "image_path", "img_path", "image_name", "img_name"),
    *("image_file", "image_filename", "name", "image_id", "id"),
)
LABEL_COLUMNS = (
    *("label", "labels", "fine_label", "cls", "target", "class", "classes", "category"),
    *("class_name", "classname", "label_name", "category_name", "class_label"),
    *("class_id", "label_id", "category_id", "class_index", "label_index", "y"),
)
# Folders of images, and of pictures that say something of each: never classes.
IMAGE_FOLDER_WORDS = frozenset(
    [
        "image",
        "images",
        "img",
        "imgs",
        "input",
        "inputs",
        "jpegimages",
        "leftimgbit",
        "rgb",
        "photos",
    ]
)
MASK_WORDS = frozenset(
    [
        "mask",
        "masks",
        "label",
        "labels",
        "target",
        "targets",
        "annotation",
        "annotations",
        "seg",
        "segmentation",
        "segmentations",
        "segmentationclass",
        "segmentationobject",
        "groundtruth",
        "gt",
        "gtfine",
        "depth",
        "semantic",
        "instance",
    ]
)
# Parts of one set, for cross-validation.
FOLD = re.compile(r"(fold|cv|split)[\W_]*\d+", re.IGNORECASE)
WHOLE_NUMBER = re.compile(r"([+-]?\d+)(\.0*)?")
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")


def is_hidden(name: str) -> bool:
    """Say whether a path below the root, or a folder on it, is no part of the images.

    It begins with a dot, or it is what a system or a program leaves behind.
    """
    for part in name.split("/"):
        if (part[:1] == "." and part != ".") or part.casefold() in SYSTEM_NAMES:
            return True
    return False


def has_image_suffix(name: str) -> bool:
    dot = name.rfind(".")
    return dot >= 0 and name[dot:].lower() in IMAGE_SUFFIXES


def is_image(name: str) -> bool:
    """Say by its path below the root whether a file is an image."""
    return has_image_suffix(name) and not is_hidden(name)


class Splits(NamedTuple):
    """Name the folders of training and of validation, as they are on disk."""

    train: str | None
    val: str | None


def _words(name: str) -> list[str]:
    """Return the words of a name: training, set of Training-Set, trainingSet2."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = re.split(r"[\W\d_]+", spaced.casefold())
    return [word.removesuffix("set") for word in words]


def split_word(name: str) -> str | None:
    """Return the split's word of a folder's name; None where the name tells no split.

    train of train, Train, train2017 and train_images, but not of bullet_train.
    """
    words = [word for word in _words(name) if word not in FILLERS]
    return words[0] if len(words) == 1 and words[0] in SPLIT_WORDS else None


def find_splits(folders: Collection[str]) -> Splits:
    """Choose the splits of the folders beside each other.

    A plain word (Train) goes before a longer name (train_images). Raises ValueError
    where two folders mean the same.
    """
    return Splits(_find_split(folders, TRAIN_WORDS), _find_split(folders, VAL_WORDS))


def _find_split(folders: Collection[str], words: Sequence[str]) -> str | None:
    named = sorted(name for name in folders if split_word(name) in words)
    plain = [name for name in named if name.casefold() in words]
    candidates = plain or named
    if not candidates:
        return None
    # all of training mean the same, of validation only those of one word
    ranks = [
        0 if words is TRAIN_WORDS else words.index(str(split_word(name)))
        for name in candidates
    ]
    best = [
        name for name, rank in zip(candidates, ranks, strict=True) if rank == min(ranks)
    ]
    if len(best) > 1:
        raise ValueError(
            f"{best[0]} and {best[1]} both name one split; join them, or"
            " rename one to a name that is no split's"
        )
    return best[0]


def look_like_splits(folders: Collection[str]) -> tuple[str, str] | None:
    """Return two folders that are training and validation of one thing, or None.

    As train and val are, or seg_train and seg_test, which share the other words.
    """
    pairs: dict[tuple[str, ...], dict[bool, str]] = {}
    for name in sorted(folders):
        words = [word for word in _words(name) if word not in FILLERS]
        for k, word in enumerate(words):
            if word in SPLIT_WORDS:
                others = (*words[:k], "*", *words[k + 1 :])
                pairs.setdefault(others, {})[word in TRAIN_WORDS] = name
    return next(
        ((pair[True], pair[False]) for pair in pairs.values() if len(pair) == 2), None
    )


def plain_word(name: str) -> str:
    """Return the letters of a name, in lower case: segmentationclass, masks."""
    return re.sub(r"[\W\d_]+", "", name.casefold())


def is_mask_folder(name: str) -> bool:
    """Say whether the last folder of a path is called as those of masks are."""
    return plain_word(name.rpartition("/")[2]) in MASK_WORDS


def find_masks(folders: Collection[str]) -> tuple[str, str] | None:
    """Return the folders of images and of their masks, where there are no others."""
    images = [each for each in folders if plain_word(each) in IMAGE_FOLDER_WORDS]
    masks = [each for each in folders if is_mask_folder(each)]
    if images and masks and len(images) + len(masks) == len(folders):
        return images[0], masks[0]
    return None


def normalise_column(name: str) -> str:
    """Return a column's name as IMAGE_COLUMNS and LABEL_COLUMNS spell it."""
    return re.sub(r"[\W_]+", "_", name.strip()).strip("_").casefold()


def find_column(names: Collection[str], wanted: Sequence[str]) -> str | None:
    """Return the column that is spelt like the first of the wanted ones."""
    spelt = {normalise_column(name): name for name in reversed(list(names))}
    return next((spelt[each] for each in wanted if each in spelt), None)


def class_keys(labels: Collection[ClassKey]) -> dict[ClassKey, ClassKey]:
    """Return the class of each distinct label.

    Classes are whole numbers where all labels are, however they are written; otherwise
    words.
    """
    matches = {label: WHOLE_NUMBER.fullmatch(str(label).strip()) for label in labels}
    if all(matches.values()):
        return {label: int(match[1]) for label, match in matches.items() if match}
    return {label: str(label).strip() for label in labels}


def sort_classes(keys: Collection[ClassKey]) -> list[ClassKey]:
    """Sort distinct classes: numbers as numbers, before words."""
    if all(NUMBER.fullmatch(str(key)) for key in keys):
        # 0.5 and 1.5 are words, but in the order of numbers
        return sorted(keys, key=lambda key: (float(key), str(key)))
    return sorted(keys, key=lambda key: (isinstance(key, str), key))
