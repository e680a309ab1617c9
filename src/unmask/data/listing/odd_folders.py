"""What is odd about a folder of images: told at the start where it is a fault, as a warning where it may be meant.

Imports no torch, for the same reason as `unmask.data.listing.listing`.
"""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from unmask.data.listing.catalogue import SUFFIX_OF

# stands for the content of a file that cannot be read; the run lists and replaces it
UNREADABLE = "unreadable"
SHOWN = 5


def refuse_empty(folder: Path, images: int, held: set[str]) -> None:
    """A class whose folder has no image would vanish without a word. held: the class folders that have some."""
    with os.scandir(folder) as entries:
        there = [
            entry.name
            for entry in entries
            if entry.is_dir() and not entry.name.startswith((".", "__"))
        ]
    if empty := sorted(set(there) - held) if held else []:
        raise ValueError(
            f"{folder} has {len(empty)} class folders without an image beside {images}"
            f" images of {len(held)} classes: {', '.join(empty[:SHOWN])}; put images"
            " into them, remove them, or let their names begin with a dot"
        )


def refuse_file(path: Path) -> None:
    if path.is_file():
        raise ValueError(
            f"{path} is a file, where a folder of images is looked for; rename or"
            " remove it"
        )


def lying_below(root: Path) -> str:
    """Of all files the most frequent suffixes, in words; of shards by which `source` they would be read."""
    found = Counter(
        Path(name).suffix.lower() or name
        for _, _, names in os.walk(root)
        for name in names
    )
    frequent = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]
    kind = next(
        (
            f": set source={kind}"
            for kind, suffix in SUFFIX_OF.items()
            if suffix in found
        ),
        "",
    )
    return (
        ", ".join(f"{count} x {suffix}" for suffix, count in frequent) or "no files"
    ) + kind


def notes(
    labels: tuple[Sequence[int], Sequence[int]],
    marks: tuple[Sequence[str], Sequence[str]],
    classes: tuple[str, ...],
) -> Iterator[str]:
    """Of the training and the validation images; a mark is a file's sha256, or less where files are not read."""
    if classes and (lacking := sorted(set(labels[0]) - set(labels[1]))):
        names = ", ".join(classes[label] for label in lacking[:SHOWN])
        yield (
            f"{len(lacking)} of {len(classes)} classes have no validation image:"
            f" {names}"
        )
    written: dict[str, str] = {}
    for name in classes:
        other = written.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            yield (
                f"{other} and {name} are two classes, whose names differ in case or in"
                " how accents are written alone"
            )
    # of empty files
    known = {mark for mark in marks[0] if len(mark) == 64} - {
        hashlib.sha256().hexdigest()
    }
    if twice := sum(mark in known for mark in marks[1]):
        yield (
            f"{twice} of {len(marks[1])} validation images are training images too, by"
            " their content"
        )
