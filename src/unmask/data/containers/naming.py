"""From what shards call their images to the names that these have in a folder, so that both are one data set."""

import re
from dataclasses import replace

import numpy as np

from unmask.data.containers.contents import Contents
from unmask.data.listing.catalogue import TRAIN_NAMES, VAL_NAMES, ClassFolders, within
from unmask.data.listing.names import Names

SPLITS = (*TRAIN_NAMES, *VAL_NAMES)
# ImageNet's images in shards of the Hub: the class is part of the name, or its number
# stands beside
OF_TRAIN = re.compile(r"train/(?:.*/)?((n\d{8})_\d+)(?:_n\d{8})?\.\w+")
OF_VAL = re.compile(r"val\w*/(?:.*/)?(ILSVRC2012_val_\d{8})(?:_n\d{8})?\.\w+")


def split_of(shard: str) -> str | None:
    """train of data/train-00000-of-00294.parquet and of imagenet1k-train-0000.tar."""
    words = re.split(r"[^a-z]+", shard.lower())
    return next((word for word in reversed(words) if word in SPLITS), None)


def below_split(name: str, shard: str) -> str:
    split = split_of(shard)
    return name if split is None or name.startswith(f"{split}/") else f"{split}/{name}"


def splits_in(names: Names) -> tuple[str, ...]:
    """Those of names that are in order."""
    return tuple(
        split for split in SPLITS if (part := within(names, split)).stop > part.start
    )


def as_in_folders(found: Contents) -> Contents:
    """ImageNet's images under the names that they have in class folders; others stay as they are."""
    splits = splits_in(found.names)
    train = within(found.names, "train")
    if (
        splits[:1] != ("train",)
        or not (found.labels[train] >= 0).all()
        or labels_are_folders(found)
    ):
        return found
    matched = [OF_TRAIN.fullmatch(name) for name in found.names[train]]
    pairs = {
        (int(label), match[2])
        for match, label in zip(matched, found.labels[train], strict=True)
        if match
    }
    folders = dict(pairs)
    if not all(matched) or not len(folders) == len(pairs) == len(set(folders.values())):
        return found

    def renamed(name: str, label: int) -> str:
        if match := OF_TRAIN.fullmatch(name):
            return f"train/{match[2]}/{match[1]}.JPEG"
        if (match := OF_VAL.fullmatch(name)) and label in folders:
            return f"val/{folders[label]}/{match[1]}.JPEG"
        return name

    names = Names(
        renamed(name, label)
        for name, label in zip(found.names, found.labels.tolist(), strict=True)
    )
    return replace(found, names=names).in_order()


def labels_are_folders(found: Contents) -> bool:
    """Whether class folders in the names tell what the labels tell; those count that are in a folder then."""
    splits = splits_in(found.names)
    train = (
        within(found.names, splits[0])
        if splits[:1] == ("train",)
        else slice(0, len(found.names))
    )
    folders = ClassFolders.at(1 if splits[:1] == ("train",) else 0, found.names)
    classes = folders.classes(train)
    if not classes:
        return False
    named = folders.labels(classes)[train]
    pairs = len(np.unique(found.labels[train].astype(np.int64) * len(classes) + named))
    return pairs == len(classes) == len(np.unique(found.labels[train]))
