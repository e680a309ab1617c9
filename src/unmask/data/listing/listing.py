"""What is in a folder of images, and its identity: names and content of the files, never where they lie.

Of large folders the sizes stand for the content. Imports no torch: a finished run is recognised before it is needed.
"""

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from jaxtyping import Int, Int32

from unmask.data.listing import odd_folders
from unmask.data.listing.catalogue import (
    LOOSE,
    TRAIN_NAMES,
    UNKNOWN,
    VAL_NAMES,
    Catalogue,
    ClassFolders,
    held_out,
    refuse_unfinished,
    within,
)
from unmask.data.listing.imagenet import DEVKIT, with_devkit
from unmask.data.listing.names import Names, Samples
from unmask.data.listing.odd_folders import UNREADABLE
from unmask.data.listing.scan import NO_FILE, SUFFIXES, scan
from unmask.data.listing.stores import Folder, Store, Taken
from unmask.storage.atomic import sha256

UNCOMPRESSED = frozenset([".npy", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"])
Places = Int[np.ndarray, "_"]
Labelled = tuple[Int32[np.ndarray, "_"], tuple[str, ...], ClassFolders | None]
# up to here all of a folder is read to know it: about a second
READ_FILES, READ_BYTES = 20_000, 2**28


@dataclass(frozen=True)
class Listing:
    """Files of both splits relative to the root; labels are indices into classes, or -1 without classes.

    stores: of both splits, where an image is not the file of its name below the root. notes: what is odd about them,
    but no fault.
    """

    root: PurePath
    train: Samples
    val: Samples
    classes: tuple[str, ...]
    identity: str
    stores: tuple[Store, Store] | None = None
    notes: tuple[str, ...] = ()


def list_images(root: str | Path, holdout: float = 0.1) -> Listing:
    """Find train/ and val/ (or test/), class folders below them, or a flat heap of images.

    Without a split the share `holdout` of each class is held out, spread over it in name order.
    Raises ValueError where the folder is missing, holds too few images, or has a validation split alone.
    """
    root = Path(root).expanduser()
    found = catalogued(root)
    listing = arranged(found, root, holdout)
    for folder in found.splits or ("",):
        part = within(found.names, folder) if folder else slice(0, len(found.names))
        held = (
            ClassFolders.at(1 if folder else 0, found.names[part]).folders
            if listing.classes
            else ()
        )
        odd_folders.refuse_empty(root / folder, part.stop - part.start, set(held))
    return listing


def catalogued(root: Path) -> Catalogue:
    """The images of a folder; ImageNet's flat validation images get the class folders that its devkit tells."""
    if not root.is_dir():
        raise ValueError(
            f"data.root={root} is not a folder; give an existing folder of images:"
            " data.root=/path/to/it"
        )
    refuse_unfinished(root)
    found = (_split_folder(root, TRAIN_NAMES), _split_folder(root, VAL_NAMES))
    folders = [folder for folder in found if folder]
    names, sizes = scan(root, folders or [root])
    if len(sizes) and (sizes == NO_FILE).all():
        raise ValueError(
            f"none of {len(names)} images below data.root={root} can be read, the first"
            f" is {names[0]}; is the disk there?"
        )
    return with_devkit(
        _of_files(root, names, sizes, tuple(folder.name for folder in folders)), root
    )


def _of_files(
    root: Path, names: Names, sizes: np.ndarray, splits: tuple[str, ...] = ()
) -> Catalogue:
    return Catalogue(
        names, sizes, Folder(root, names), splits, lambda i: sha256(root / names[i])
    )


def arranged(found: Catalogue, root: PurePath, holdout: float) -> Listing:
    """Splits, labels and the identity of what a source holds. Raises ValueError as `list_images` does."""
    training = next((name for name in found.splits if name in TRAIN_NAMES), None)
    validation = next((name for name in VAL_NAMES if name in found.splits), None)
    if validation and not training:
        raise ValueError(
            f"data.root={root} has {validation}/ but no train/; add it, or point"
            " data.root to the images"
        )
    train = within(found.names, training) if training else slice(0, len(found.names))
    classes, labels, folders = found.classes, found.labels, None
    if labels is None:
        # a lone train/ is no class
        folders = ClassFolders.at(1 if training else 0, found.names)
        classes = folders.classes(train)
        labels = folders.labels(classes)
    places = np.arange(len(found.names), dtype=np.int32)
    if validation:
        pair = places[train], places[within(found.names, validation)]
    else:
        held = held_out(labels[train], holdout)
        if len(held) > 1 and not held.any():
            raise ValueError(
                f"data.root={root} has no val/, and none of its {len(held)} images can"
                " be held out for validation: each is alone in its class, which"
                " training would not know without it; add val/ or images, or put all"
                " into one folder, without classes"
            )
        pair = places[train][~held], places[train][held]
    _check(found.names, pair, (labels, classes, folders), root)
    splits = [Samples.packed(_taken(found.names, part), labels[part]) for part in pair]
    as_named = isinstance(found.store, Folder) and found.store.names is found.names
    stores = (
        None if as_named else (Taken(found.store, pair[0]), Taken(found.store, pair[1]))
    )
    marks: Iterable[str] = marks_of(found, pair)
    known: tuple[list[str], list[str]] = [], []
    if len(places) <= READ_FILES:
        marks = list(marks)
        known = marks[: len(pair[0])], marks[len(pair[0]) :]
    met = [np.unique(split.labels).tolist() for split in splits]
    odd = odd_folders.notes((met[0], met[1]), known, classes)
    identity = identity_of(splits, marks, classes)
    return Listing(root, splits[0], splits[1], classes, identity, stores, tuple(odd))


def _taken(names: Names, places: Places) -> Names:
    """The same memory, where they follow each other."""
    whole = len(places) and places[-1] - places[0] == len(places) - 1
    return names[places[0] : places[-1] + 1] if whole else names.take(places)


def _check(
    names: Names, pair: tuple[Places, Places], labelled: Labelled, root: PurePath
) -> None:
    (train, val), (labels, classes, folders) = pair, labelled
    if not len(train) or not len(val):
        allowed = " ".join(sorted(SUFFIXES))
        raise ValueError(
            f"data.root={root} has {len(train)} training and {len(val)} validation"
            f" images; both need at least one ({allowed}){_there(root)}"
        )
    loose = val[labels[val] == LOOSE] if classes else val[:0]
    if len(loose):
        raise ValueError(
            f"{names[int(loose[0])]} and {len(loose) - 1} more validation images lie in"
            f" no class folder, but training has {len(classes)} classes; sort them into"
            " folders of those names (ImageNet's val/ comes flat: its devkit's ground"
            f" truth says which image goes where, if {DEVKIT}/ lies in data.root)"
        )
    unknown = val[labels[val] == UNKNOWN]
    if len(unknown):
        lacking = folders.among(unknown) if folders else []
        raise ValueError(
            f"validation has {len(lacking)} classes that training lacks:"
            f" {', '.join(lacking[:5])}; training has"
            f" {', '.join(classes[:5])}{' ...' if len(classes) > 5 else ''}: give both"
            " the same class folders"
        )


def _there(root: PurePath) -> str:
    return (
        f"; what is there: {odd_folders.lying_below(root)}"
        if isinstance(root, Path) and root.is_dir()
        else ""
    )


def list_other(root: Path, classes: tuple[str, ...]) -> Listing:
    """Another set of images of (some of) the same classes, all of it as validation images.

    Raises ValueError where the folder is missing, empty, or has class folders that training lacks.
    """
    if not root.is_dir():
        raise ValueError(
            f"{root} is not a folder; it should hold a folder of images for each class"
        )
    names, sizes = scan(root, [root])
    if not names:
        raise ValueError(f"{root} has no images ({' '.join(sorted(SUFFIXES))})")
    folders, places = ClassFolders.at(0, names), np.arange(len(names))
    labels = folders.labels(classes)
    _check(names, (places, places), (labels, classes, folders), root)
    val = Samples.packed(names, labels)
    return Listing(
        root,
        Samples(),
        val,
        classes,
        identity_of([val], listed_marks(root, names, sizes), classes),
    )


def _split_folder(root: Path, names: tuple[str, ...]) -> Path | None:
    for name in names:
        odd_folders.refuse_file(root / name)
    return next((root / name for name in names if (root / name).is_dir()), None)


def image_files(root: Path, folder: Path) -> list[str]:
    """Names, relative to the root, of all images below the folder, in order; hidden files are none."""
    return list(scan(root, [folder])[0])


def marks_of(found: Catalogue, parts: Sequence[Places]) -> Iterator[str]:
    """Of each image its content where that is quickly read, else its size; always the content of uncompressed ones,
    whose size stays when pixels change; of what is no file, that.
    """
    places = np.concatenate(parts)
    sizes = found.sizes[places]
    all_read = found.marked or (
        len(places) <= READ_FILES and int(sizes.clip(0).sum()) <= READ_BYTES
    )
    names = itertools.chain.from_iterable(_taken(found.names, part) for part in parts)
    for place, size, name in zip(places.tolist(), sizes.tolist(), names, strict=True):
        read = all_read or os.path.splitext(name)[1].lower() in UNCOMPRESSED
        yield (
            UNREADABLE
            if size == NO_FILE
            else _content(found, place)
            if read
            else str(size)
        )


def _content(found: Catalogue, place: int) -> str:
    try:
        return found.digest(place)
    except OSError:  # the run lists and replaces it
        return UNREADABLE


def listed_marks(root: Path, names: Names, sizes: np.ndarray) -> Iterator[str]:
    """The same of files below the root that are known by name, with their sizes (NO_FILE)."""
    return marks_of(_of_files(root, names, sizes), (np.arange(len(names)),))


def identity_of(
    splits: Sequence[Samples], marks: Iterable[str], classes: tuple[str, ...]
) -> str:
    """A hash of the classes and of each file's name, label and content (or size)."""
    lines = (
        f"{name}\0{mark}\0{label}"
        for (name, label), mark in zip(itertools.chain(*splits), marks, strict=True)
    )
    whole, first = hashlib.sha256(), True
    for line in itertools.chain(classes, lines):
        whole.update(
            ("" if first else "\n").encode() + line.encode("utf-8", "surrogateescape")
        )
        first = False
    return whole.hexdigest()[:16]
