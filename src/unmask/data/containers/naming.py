"""Names of images in shards, turned into the names that they have in a folder.

So both are one data set, with one identity.
"""

import re
from dataclasses import replace

import numpy as np

from unmask.data.containers.contents import Contents
from unmask.data.listing.catalogue import ClassFolders
from unmask.data.listing.conventions import SPLIT_WORDS, find_splits, split_word
from unmask.data.listing.names import (
    Names,
    folder_slice,
    pack_names,
    top_folders,
    unpack_names,
)

# ImageNet's images in shards of the Hub, below the split that `add_split` put before
# them. Names of training images contain the class folder (WordNet id); of validation
# images it follows from the label.
IMAGENET_TRAIN_NAME = re.compile(r"train/(?:.*/)?((n\d{8})_\d+)(?:_n\d{8})?\.\w+")
IMAGENET_VAL_NAME = re.compile(
    r"val\w*/(?:.*/)?(ILSVRC2012_val_\d{8})(?:_n\d{8})?\.\w+"
)


# How images begin that get another suffix than .jpg where they have no name: arrays and
# TIFFs are known by it.
MAGIC_SUFFIXES = {
    b"\x89PNG": ".png",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
    b"\x93NUMPY": ".npy",
}


def suffix_of(content: bytes | None) -> str:
    """Return the suffix of an image that has no name, by how it begins."""
    for magic, suffix in MAGIC_SUFFIXES.items():
        if content and content.startswith(magic):
            return suffix
    return ".jpg"


def split_of_shard(shard: str) -> str | None:
    """Return the split that a shard's name tells, or None.

    train of data/train-00000-of-00294.parquet and of imagenet1k-train-0000.tar.
    """
    words = re.split(r"[^a-z]+", shard.lower())
    # the last one: imagenet-train/test-0000.tar is a shard of test images
    return next((word for word in reversed(words) if word in SPLIT_WORDS), None)


def add_split(name: str, shard: str) -> str:
    """Put the split of an image's shard before its name, if it is not there."""
    split = split_of_shard(shard)
    if split is None or split_word(name.partition("/")[0]) == split:
        return name
    return f"{split}/{name}"


def named_splits(names: Names) -> tuple[str, ...]:
    """Return the folders that sorted names begin with and that tell a split."""
    return tuple(folder for folder in top_folders(names) if split_word(folder))


def rename_as_in_folders(contents: Contents) -> Contents:
    """Give ImageNet's images the names that they have in class folders.

    Contents that are not clearly ImageNet's are returned as they are.
    """
    train = folder_slice(contents.names, "train")
    if (
        "train" not in named_splits(contents.names)
        or (contents.labels[train] < 0).any()
        or labels_match_folders(contents)
    ):
        return contents
    train_names = unpack_names(contents.names[train])
    matches = [IMAGENET_TRAIN_NAME.fullmatch(name) for name in train_names]
    pairs = {
        (int(label), match[2])
        for match, label in zip(matches, contents.labels[train], strict=True)
        if match
    }
    folders = dict(pairs)
    # labels and class folders must be in one-to-one relation
    is_bijection = len(folders) == len(pairs) == len(set(folders.values()))
    if not all(matches) or not is_bijection:
        return contents
    before, labels = unpack_names(contents.names), contents.labels.tolist()
    names = pack_names(
        _folder_name(name, label, folders)
        for name, label in zip(before, labels, strict=True)
    )
    return replace(contents, names=names).sorted_by_name()


def _folder_name(name: str, label: int, folders: dict[int, str]) -> str:
    if match := IMAGENET_TRAIN_NAME.fullmatch(name):
        return f"train/{match[2]}/{match[1]}.JPEG"
    match = IMAGENET_VAL_NAME.fullmatch(name)
    if match and label in folders:
        return f"val/{folders[label]}/{match[1]}.JPEG"
    return name


def labels_match_folders(contents: Contents) -> bool:
    """Say whether class folders in the names divide training as the labels do.

    Then the folders are used, as in a folder of the same images.
    """
    split = find_splits(named_splits(contents.names)).train
    train = slice(0, len(contents.names))
    if split:
        train = folder_slice(contents.names, split)
    folders = ClassFolders.from_names(1 if split else 0, contents.names)
    classes = folders.class_names(train)
    if not classes:
        return False
    labels = contents.labels[train].astype(np.int64)
    by_folder = folders.labels(classes)[train]
    # as many pairs as labels and as folders: each label has one folder and vice versa
    num_pairs = len(np.unique(labels * len(classes) + by_folder))
    return num_pairs == len(classes) == len(np.unique(labels))
