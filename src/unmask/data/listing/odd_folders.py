"""Oddities of image folders: faults stop a run at its start, others become notes.

Imports no torch, for the same reason as `unmask.data.listing.listing`.
"""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from unmask.data.listing.catalogue import SHARD_SUFFIXES

# The content key of a file that cannot be read. Identities contain it.
UNREADABLE = "unreadable"

SHOWN = 5  # names in a message
SHA256_DIGITS = 64


def refuse_empty_classes(folder: Path, num_images: int, filled: set[str]) -> None:
    """Raise ValueError for a class folder without images: its class would vanish.

    filled: the class folders that have images; where it is empty there are no classes.
    """
    # names like __MACOSX and .cache are left behind by programs
    with os.scandir(folder) as entries:
        folders = [
            entry.name
            for entry in entries
            if entry.is_dir() and not entry.name.startswith((".", "__"))
        ]
    empty = sorted(set(folders) - filled) if filled else []
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


def describe_files(root: Path) -> str:
    """Count the most frequent suffixes below the root, in words.

    Where they are shards, add the `source=` that reads them.
    """
    counts = Counter(
        Path(name).suffix.lower() or name
        for _, _, names in os.walk(root)
        for name in names
    )
    frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]
    text = ", ".join(f"{count} x {suffix}" for suffix, count in frequent)
    for source, suffix in SHARD_SUFFIXES.items():
        if suffix in counts:
            return f"{text}: set source={source}"
    return text or "no files"


def find_warnings(
    labels: tuple[Sequence[int], Sequence[int]],
    keys: tuple[Sequence[str], Sequence[str]],
    classes: tuple[str, ...],
) -> Iterator[str]:
    """Yield a warning for each suspicious property of the folders.

    labels: those that occur in training and in validation.
    keys: the content keys of training and validation; empty for large sets.
    """
    yield from _classes_without_validation(labels, classes)
    yield from _similar_class_names(classes)
    yield from _repeated_images(keys)


def _classes_without_validation(
    labels: tuple[Sequence[int], Sequence[int]], classes: tuple[str, ...]
) -> Iterator[str]:
    missing = sorted(set(labels[0]) - set(labels[1]))
    if classes and missing:
        names = ", ".join(classes[label] for label in missing[:SHOWN])
        yield (
            f"{len(missing)} of {len(classes)} classes have no validation image:"
            f" {names}"
        )


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
    # all empty files are alike
    digests.discard(hashlib.sha256().hexdigest())
    repeated = sum(key in digests for key in val)
    if repeated:
        yield (
            f"{repeated} of {len(val)} validation images are training images too: they"
            " have the same content"
        )
