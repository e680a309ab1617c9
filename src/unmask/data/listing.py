"""What is in a folder of images, and its identity: names and content of the files, never where they lie.

Of large folders the sizes stand for the content. Imports no torch: a finished run is recognised before it is needed.
"""

import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

from unmask.data import odd_folders
from unmask.data.odd_folders import UNREADABLE
from unmask.data.samples import Samples

SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".npy"])
UNCOMPRESSED = frozenset([".npy", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"])
READ_FILES, READ_BYTES = 20_000, 2**28  # up to here all of a folder is read to know it: about a second
TRAIN_NAMES, VAL_NAMES = ("train",), ("val", "valid", "validation", "test")


@dataclass(frozen=True)
class Listing:
    """Files of both splits relative to the root; labels are indices into classes, or -1 without classes.

    notes: what is odd about them, but no fault.
    """

    root: Path
    train: Samples
    val: Samples
    classes: tuple[str, ...]
    identity: str
    notes: tuple[str, ...] = ()


def list_images(root: str | Path, holdout: float = 0.1) -> Listing:
    """Find train/ and val/ (or test/), class folders below them, or a flat heap of images.

    Without a split the share `holdout` of each class is held out, spread over it in name order.
    Raises ValueError where the folder is missing, holds too few images, or has a validation split alone.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise ValueError(f"data.root={root} is not a folder; give an existing folder of images: data.root=/path/to/it")
    train_dir, val_dir = _split_folder(root, TRAIN_NAMES), _split_folder(root, VAL_NAMES)
    if train_dir and val_dir:
        train_files, val_files = image_files(root, train_dir), image_files(root, val_dir)
        classes = _classes(train_files, depth=1)
        for folder, names in ((train_dir, train_files), (val_dir, val_files)):
            _refuse_empty(folder, names, classes, 1)
        train, val = _label(train_files, classes, 1), _label(val_files, classes, 1)
    elif val_dir:
        raise ValueError(
            f"data.root={root} has {val_dir.name}/ but no train/; add it, or point data.root to the images"
        )
    else:
        depth = 1 if train_dir else 0  # a lone train/ is no class
        files = image_files(root, train_dir or root)
        classes = _classes(files, depth)
        _refuse_empty(train_dir or root, files, classes, depth)
        train, val = hold_out(_label(files, classes, depth), holdout)
    if not train or not val:
        allowed = " ".join(sorted(SUFFIXES))
        raise ValueError(
            f"data.root={root} has {len(train)} training and {len(val)} validation images; "
            f"both need at least one ({allowed}); what is there: {odd_folders.suffixes_below(root)}"
        )
    both = [*train, *val]
    marks = _marks(root, [name for name, _ in both], strict=False)
    labels, cut = [label for _, label in both], len(train)
    odd = odd_folders.notes((labels[:cut], labels[cut:]), (marks[:cut], marks[cut:]), classes)
    return Listing(root, Samples(train), Samples(val), classes, _digest(both, marks, classes), tuple(odd))


def list_other(root: Path, classes: tuple[str, ...]) -> Listing:
    """Another set of images of (some of) the same classes, all of it as validation images.

    Raises ValueError where the folder is missing, empty, or has class folders that training lacks.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; it should hold a folder of images for each class")
    files = _label(image_files(root, root), classes, 0)
    if not files:
        raise ValueError(f"{root} has no images ({' '.join(sorted(SUFFIXES))})")
    return Listing(root, Samples(()), Samples(files), classes, identity_of(root, list(files), classes))


def _split_folder(root: Path, names: tuple[str, ...]) -> Path | None:
    for name in names:
        odd_folders.refuse_file(root / name)
    return next((root / name for name in names if (root / name).is_dir()), None)


def _refuse_empty(folder: Path, files: list[str], classes: tuple[str, ...], depth: int) -> None:
    held = {Path(name).parts[depth] for name in files if classes and len(Path(name).parts) > depth + 1}
    odd_folders.refuse_empty(folder, len(files), held)


def image_files(root: Path, folder: Path) -> list[str]:
    """Names, relative to the root, of all images below the folder, in order; hidden files are none."""

    def fail(error: OSError) -> None:
        raise ValueError(f"{error.filename} cannot be read ({error.strerror}); unlock it, or move it away") from None

    found = []
    for parent, folders, names in os.walk(folder, onerror=fail):
        folders.sort()
        base = Path(parent).relative_to(root)
        found += [str(base / name) for name in names if Path(name).suffix.lower() in SUFFIXES and name[0] != "."]
    return sorted(found)


def _classes(files: list[str], depth: int) -> tuple[str, ...]:
    """Names of the class folders; none if any image lies outside a class folder."""
    parts = [Path(name).parts for name in files]
    if not parts or any(len(part) < depth + 2 for part in parts):
        return ()
    return tuple(sorted({part[depth] for part in parts}))


def _label(files: list[str], classes: tuple[str, ...], depth: int) -> tuple[tuple[str, int], ...]:
    if not classes:
        return tuple((name, -1) for name in files)
    loose = [name for name in files if len(Path(name).parts) < depth + 2]
    if loose:
        raise ValueError(
            f"{loose[0]} and {len(loose) - 1} more validation images lie in no class folder, but training has "
            f"{len(classes)} classes; sort them into folders of those names (ImageNet's val/ comes flat: its "
            f"devkit's ground truth says which image goes where)"
        )
    index = {name: i for i, name in enumerate(classes)}
    labels = [index.get(Path(name).parts[depth]) for name in files]
    unknown = sorted({Path(name).parts[depth] for name, label in zip(files, labels, strict=True) if label is None})
    if unknown:
        raise ValueError(
            f"validation has {len(unknown)} classes that training lacks: {', '.join(unknown[:5])}; training has "
            f"{', '.join(classes[:5])}{' ...' if len(classes) > 5 else ''}: give both the same class folders"
        )
    return tuple((name, label) for name, label in zip(files, labels, strict=True) if label is not None)


def hold_out(files: tuple[tuple[str, Any], ...], holdout: float) -> tuple[tuple, tuple]:
    """The share of each class, to within one image; of all together where no class is large enough."""
    share = Fraction(str(holdout))  # as it was written: 0.29 * 100 is less than 29 in binary
    sizes = Counter(label for _, label in files)
    seen: Counter[Any] = Counter()
    held = []
    for _, label in files:
        seen[label] += 1
        held.append(floor(seen[label] * share) > floor((seen[label] - 1) * share))
    if not any(held):
        # the second image in every few, but never one that is alone in its class: training would not know it
        every = min(max(2, round(1 / holdout)), max(2, len(files)))
        spare = [i for i, (_, label) in enumerate(files) if sizes[label] > 1]
        chosen = set(spare[1::every])
        held = [i in chosen for i in range(len(files))]
    train = tuple(file for file, out in zip(files, held, strict=True) if not out)
    return train, tuple(file for file, out in zip(files, held, strict=True) if out)


def _marks(root: Path, names: list[str], strict: bool) -> list[str]:
    """Of each file its content where that is quickly read, else its size; always the content of uncompressed ones,
    whose size stays when pixels change.

    strict: a file that is not there is an error (a list names it), else it is known as unreadable.
    """
    sizes = [odd_folders.size_of(root / name) for name in names]
    gone = next((root / name for name, size in zip(names, sizes, strict=True) if size is None), None)
    if gone and (strict or all(size is None for size in sizes)):
        try:
            gone.stat()
        except OSError as error:
            raise ValueError(f"{error.filename} cannot be read ({error.strerror}); mend or remove it") from None
    small = len(names) <= READ_FILES and sum(size or 0 for size in sizes) <= READ_BYTES
    return [
        UNREADABLE
        if size is None
        else odd_folders.content_of(root / name)
        if small or Path(name).suffix.lower() in UNCOMPRESSED
        else str(size)
        for name, size in zip(names, sizes, strict=True)
    ]


def identity_of(root: Path, files: list[tuple[str, int]], classes: tuple[str, ...]) -> str:
    """A hash of the classes and of each file's name, label and content (or size)."""
    return _digest(files, _marks(root, [name for name, _ in files], strict=True), classes)


def _digest(files: list[tuple[str, int]], marks: list[str], classes: tuple[str, ...]) -> str:
    lines = [*classes, *(f"{name}\0{mark}\0{label}" for (name, label), mark in zip(files, marks, strict=True))]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:16]
