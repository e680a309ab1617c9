"""Oddities of image folders: faults stop a run at its start, others become notes.

Imports no torch, for the same reason as `unmask.data.listing.listing`.
"""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath

import numpy as np
from jaxtyping import Bool

from unmask.data.listing.catalogue import SHARD_SUFFIXES
from unmask.data.listing.conventions import (
    FOLD,
    IMAGE_FOLDER_WORDS,
    TRAIN_WORDS,
    find_masks,
    is_hidden,
    is_mask_folder,
    look_like_splits,
    plain_word,
    split_word,
)
from unmask.data.listing.names import LabelledNames, Names, name_at, unpack_names
from unmask.data.listing.scan import holds_images, list_folders

# The content key of a file that cannot be read. Identities contain it.
UNREADABLE = "unreadable"

SHOWN = 5  # names in a message
# Files that hold labels, as of the library datasets and of Kaggle.
LIST_NAMES = ("train.csv", "labels.csv", "metadata.csv", "metadata.jsonl")
SHA256_DIGITS = 64
# all empty files are alike
EMPTY_SHA256 = hashlib.sha256().hexdigest()


def refuse_empty_classes(folder: Path, num_images: int, filled: set[str]) -> None:
    """Raise ValueError for a class folder without images: its class would vanish.

    filled: the class folders that have images; where it is empty there are no classes.
    """
    folders = list_folders(folder) if filled else []
    empty = sorted(set(folders) - filled)
    # images/ beside the texts of labels/ is no class
    if filled and all(plain_word(name) in IMAGE_FOLDER_WORDS for name in filled):
        empty = [name for name in empty if not is_mask_folder(name)]
    if empty:
        raise ValueError(
            f"{folder} has {len(empty)} class folders without an image beside"
            f" {num_images} images of {len(filled)} classes:"
            f" {', '.join(empty[:SHOWN])}; put images into them, remove them, or let"
            " their names begin with a dot"
        )


def refuse_file(path: Path) -> None:
    """Raise ValueError where a split should be a folder but is a file."""
    if path.is_file():
        raise ValueError(
            f"{path} is a file, but should be a folder of images; rename or remove it"
        )


def refuse_split_among_classes(root: Path, train: str, folders: list[str]) -> None:
    """Raise ValueError where train/ is a class of vehicles beside others.

    folders: all below the root. Without val/, and with images in train/ itself, other
    folders of images beside it would be left out.
    """
    others = [name for name in folders if name != train]
    if not holds_images(root / train):
        return
    classes = [name for name in others if holds_images(root / name)]
    if classes:
        raise ValueError(
            f"data.root={root}: images lie in {train}/ itself, and in"
            f" {', '.join(classes[:SHOWN])} beside it; if they all are classes, put"
            f" them into one more folder, train/ ({root.name}/train/{train}/); to read"
            f" {train}/ alone set data.root={root / train}"
        )


def refuse_splits_below(root: PurePath, names: Names) -> None:
    """Raise ValueError where splits lie deeper than they are looked for.

    names: of images in no split; their folders would become classes, and images of
    validation would be trained on.
    """
    children: dict[str, set[str]] = {}
    for folder in {name.rpartition("/")[0] for name in unpack_names(names)}:
        parts = folder.split("/") if folder else []
        for depth, part in enumerate(parts):
            children.setdefault("/".join(parts[:depth]), set()).add(part)
    # data.root of images, rather than of their masks
    parents = sorted(children, key=lambda name: (is_mask_folder(name), name))
    for parent, folders in ((name, children[name]) for name in parents):
        pair = look_like_splits(folders)
        # train/ alone, in the only folder there is
        if {parent} == children[""]:
            trains = [each for each in folders if split_word(each) in TRAIN_WORDS]
            pair = pair or (trains[0], trains[0]) if trains else pair
        if pair and parent:
            found = " and ".join(f"{parent}/{each}" for each in dict.fromkeys(pair))
            remedy = f"make the shards without {parent}/ before all names"
            if isinstance(root, Path):
                remedy = f"set data.root={root / parent}, or move them up"
            raise ValueError(
                f"data.root={root}: {found} seem to be splits, and lie too deep;"
                f" {remedy}"
            )
        if pair:
            raise ValueError(
                f"data.root={root}: {pair[0]} and {pair[1]} seem to be splits, and"
                " would be classes; rename them to train and test"
            )


def refuse_parts_as_classes(root: PurePath, split: str, folders: Sequence[str]) -> None:
    """Raise ValueError for folders of one split that are no classes.

    They are images and their masks, or the folds of a cross-validation.
    """
    below = f"{split}/" if split else ""
    pair = find_masks(folders)
    if pair:
        images, masks = pair
        remedy = f"move {below}{masks}/ out of {split}/"
        if not split:
            remedy = f"set data.root={root / images}"
        raise ValueError(
            f"data.root={root}: {below}{masks} seems to hold masks or labels of the"
            f" images in {below}{images}, and both would be classes; {remedy}"
        )
    if len(folders) > 1 and all(map(FOLD.fullmatch, folders)):
        raise ValueError(
            f"data.root={root}: {', '.join(folders[:SHOWN])} seem to be folds of one"
            " set, and would be classes; put folds into train/ and one into val/"
        )


def note_strays(names: Names, outside_N: Bool[np.ndarray, "N"]) -> Iterator[str]:
    """Yield a note where a few images lie beside the class folders of the others."""
    count = int(outside_N.sum())
    if 0 < count < len(names) / 2:
        first = name_at(names, int(outside_N.argmax()))
        yield (
            f"{count} of {len(names)} training images lie beside the folders of the"
            f" others, so that there are no classes: {first}; move or remove them"
        )


def note_shared_folders(names: Names, depth: int) -> Iterator[str]:
    """Yield a note where all class folders hold the same folders.

    depth: of the class folders. Theirs may be the classes, as of data sets of several
    domains.
    """
    below: dict[str, set[str]] = {}
    for folder in {name.rpartition("/")[0] for name in unpack_names(names)}:
        parts = folder.split("/")
        if len(parts) > depth:
            below.setdefault(parts[depth], set()).update(parts[depth + 1 : depth + 2])
    shared = next(iter(below.values()), set())
    is_shared = all(each == shared for each in below.values())
    if len(below) > 1 and len(shared) > 1 and is_shared:
        yield (
            f"the classes are {_abbreviate(below)}; each of them holds the folders"
            f" {_abbreviate(shared)}: if these are the classes, move them up"
        )


def _abbreviate(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:SHOWN]) + (", ..." if len(ordered) > SHOWN else "")


def describe_files(root: Path) -> str:
    """Count the most frequent suffixes below the root, in words.

    Where they are shards, add the `source=` that reads them.
    """
    counts = Counter(
        Path(name).suffix.lower() or name
        for _, _, names in os.walk(root)
        for name in names
        if not is_hidden(name)
    )
    frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]
    text = ", ".join(f"{count} x {suffix}" for suffix, count in frequent)
    for source, suffix in SHARD_SUFFIXES.items():
        if suffix in counts:
            return f"{text}: set source={source}"
    return text or "no files"


def note_lists(root: Path) -> Iterator[str]:
    """Yield a note on lists beside images without classes, which may hold labels."""
    folders = [root, *(root / name for name in list_folders(root) if split_word(name))]
    paths = (folder / name for folder in folders for name in LIST_NAMES)
    lists = [path for path in paths if path.is_file()]
    if lists:
        yield (
            f"{lists[0]} is not read, and the images have no classes; data=listed reads"
            f" train.csv with lines of path,label in data.root={root}"
        )


def find_warnings(
    splits: tuple[LabelledNames, LabelledNames],
    keys: tuple[Sequence[str], Sequence[str]],
    classes: tuple[str, ...],
) -> Iterator[str]:
    """Yield a warning for each suspicious property of training and validation.

    keys: the content keys of both; empty for large sets.
    """
    train, val = splits
    if classes:
        present = [set(np.unique(split.labels).tolist()) for split in splits]
        yield from _absent_classes(present[0] - present[1], classes, "validation")
        yield from _absent_classes(present[1] - present[0] - {-1}, classes, "training")
    yield from _similar_class_names(classes)
    yield from _repeated_images(keys)
    if keys[0]:
        labels = [*train.labels.tolist(), *val.labels.tolist()]
        yield from _contradictory_images(zip(labels, (*keys[0], *keys[1]), strict=True))


def _absent_classes(
    absent: set[int], classes: tuple[str, ...], split: str
) -> Iterator[str]:
    if absent:
        names = ", ".join(classes[label] for label in sorted(absent)[:SHOWN])
        yield f"{len(absent)} of {len(classes)} classes have no {split} image: {names}"


def _similar_class_names(classes: tuple[str, ...]) -> Iterator[str]:
    first_spelling: dict[str, str] = {}
    for name in classes:
        # NFC: the same accented letter can be one or two Unicode characters
        folded = unicodedata.normalize("NFC", name).casefold()
        other = first_spelling.setdefault(folded, name)
        if other != name:
            yield (
                f"{other} and {name} are two classes, whose names differ only in case"
                " or in how accents are encoded"
            )


def _repeated_images(keys: tuple[Sequence[str], Sequence[str]]) -> Iterator[str]:
    train, val = keys
    digests = {key for key in train if len(key) == SHA256_DIGITS}
    digests.discard(EMPTY_SHA256)
    repeated = sum(key in digests for key in val)
    if repeated:
        yield (
            f"{repeated} of {len(val)} validation images are training images too: they"
            " have the same content"
        )


def _contradictory_images(labels_and_keys: Iterable[tuple[int, str]]) -> Iterator[str]:
    """Warn of images with one content and two classes."""
    labels: dict[str, set[int]] = {}
    for label, key in labels_and_keys:
        if len(key) == SHA256_DIGITS and key != EMPTY_SHA256:
            labels.setdefault(key, set()).add(label)
    count = sum(len(each) > 1 for each in labels.values())
    if count:
        yield f"{count} images lie in several classes, each with the same content"
