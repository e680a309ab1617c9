"""Listing of a folder of images: its splits, labels, classes and identity.

Imports no torch, so that a finished run is recognised before torch is needed.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32

from unmask.data.listing import identity, odd_folders
from unmask.data.listing.catalogue import (
    NO_CLASS_FOLDER,
    UNKNOWN_CLASS,
    Catalogue,
    ClassFolders,
    catalogue_files,
    holdout_mask,
    require_finished,
)
from unmask.data.listing.conventions import (
    IMAGE_SUFFIXES,
    SPLIT_WORDS,
    Splits,
    find_splits,
)
from unmask.data.listing.identity import (
    compute_identity,
    content_keys,
    take_names,
)
from unmask.data.listing.imagenet import DEVKIT_FOLDER, apply_devkit_labels
from unmask.data.listing.names import (
    FolderStore,
    LabelledNames,
    Names,
    folder_slice,
    name_at,
    unpack_names,
)
from unmask.data.listing.scan import NOT_A_FILE, list_folders, scan_folders
from unmask.data.listing.stores import Store, Subset

Indices = Int[np.ndarray, "_"]

SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Listing:
    """List the images of both splits, by names relative to the root.

    Labels are indices into classes, or -1 where there are no classes.
    stores: one for each split; None: each image is the file of its name below the root.
    notes: oddities that are not faults, in sentences.
    """

    root: PurePath
    train: LabelledNames
    val: LabelledNames
    classes: tuple[str, ...]
    identity: str
    stores: tuple[Store, Store] | None = None
    notes: tuple[str, ...] = ()


class ImageLabels(NamedTuple):
    """Labels of all images of a catalogue; folders: None where labels are stored."""

    labels_N: Int32[np.ndarray, "N"]
    classes: tuple[str, ...]
    folders: ClassFolders | None = None
    notes: tuple[str, ...] = ()


def list_images(root: str | Path, holdout: float = 0.1) -> Listing:
    """List train/ and val/ (or test/) with class folders, or a flat folder of images.

    Without a validation folder the share `holdout` of each class is held out, spread
    over the class in the order of names. Raises ValueError where the folder is missing,
    holds too few images, or has a validation folder only.
    """
    root = Path(root).expanduser()
    catalogue = catalogue_folder(root)
    listing = make_listing(catalogue, root, holdout)
    # "" stands for a folder without train/ and val/: its classes lie in the root
    for split in catalogue.splits or ("",):
        names = catalogue.names
        if split:
            names = names[folder_slice(names, split)]
        filled: set[str] = set()
        if listing.classes:
            filled.update(ClassFolders.from_names(1 if split else 0, names).folders)
        odd_folders.refuse_empty_classes(root / split, len(names), filled)
    if listing.classes:
        return listing
    unread = odd_folders.note_lists(root)
    return replace(listing, notes=(*listing.notes, *unread))


def catalogue_folder(root: Path) -> Catalogue:
    """Catalogue the images of a folder, and sort ImageNet's flat val/ by its devkit.

    Raises ValueError where the folder is missing, unfinished or cannot be read.
    """
    if not root.is_dir():
        raise ValueError(
            f"data.root={root} is not a folder; give an existing folder of images:"
            " data.root=/path/to/it"
        )
    require_finished(root)
    for word in SPLIT_WORDS:
        odd_folders.refuse_file(root / word)
    below = list_folders(root)
    splits = _choose_splits(below, root)
    if splits.train and not splits.val:
        odd_folders.refuse_split_among_classes(root, splits.train, below)
    split_names = tuple(split for split in splits if split)
    # with train/ and val/ other folders are ignored
    names, sizes = scan_folders(root, [root / name for name in split_names] or [root])
    # a single such file is a bad image; if all are, the disk is at fault
    if len(sizes) and (sizes == NOT_A_FILE).all():
        raise ValueError(
            f"none of {len(names)} images below data.root={root} can be read, the first"
            f" is {name_at(names, 0)}; is the disk there?"
        )
    return apply_devkit_labels(catalogue_files(root, names, sizes, split_names), root)


def _choose_splits(folders: Collection[str], root: PurePath) -> Splits:
    try:
        return find_splits(folders)
    except ValueError as error:
        raise ValueError(f"data.root={root}: {error}") from None


def make_listing(catalogue: Catalogue, root: PurePath, holdout: float) -> Listing:
    """Divide a catalogue into splits and label it.

    Raises ValueError as `list_images` does.
    """
    splits = _choose_splits(catalogue.splits, root)
    if splits.val and not splits.train:
        raise ValueError(
            f"data.root={root} has {splits.val}/ but no train/; add train/, or point"
            " data.root to the folder of images; if its folders are classes, put them"
            " all into train/"
        )
    if not splits.train:
        odd_folders.refuse_splits_below(root, catalogue.names)
    labels = _label_images(catalogue, splits.train)
    if labels.folders and labels.classes:
        odd_folders.refuse_parts_as_classes(root, splits.train or "", labels.classes)
    # int32: half the memory of a million indices
    indices = np.arange(len(catalogue.names), dtype=np.int32)
    train = indices[catalogue.train_slice]
    if splits.val:
        val = indices[folder_slice(catalogue.names, splits.val)]
    else:
        train, val, labels = hold_out(train, labels, holdout)
    _require_images(train, val, root)
    _require_known_classes(catalogue.names, val, labels)
    return build_listing(catalogue, (train, val), labels, root)


def _label_images(catalogue: Catalogue, train_split: str | None) -> ImageLabels:
    if catalogue.labels is not None:
        return ImageLabels(catalogue.labels, catalogue.classes)
    # train/ is a split and not a class, even if there is no val/
    depth = 1 if train_split else 0
    folders = ClassFolders.from_names(depth, catalogue.names)
    train = catalogue.train_slice
    classes = folders.class_names(train)
    if classes:
        notes = odd_folders.note_shared_folders(catalogue.names[train], depth)
    else:
        outside_N = folders.folder_ids_N[train] == NO_CLASS_FOLDER
        notes = odd_folders.note_strays(catalogue.names[train], outside_N)
    return ImageLabels(folders.labels(classes), classes, folders, tuple(notes))


def hold_out(
    train: Indices, labels: ImageLabels, holdout: float
) -> tuple[Indices, Indices, ImageLabels]:
    """Divide images into training and validation, where nobody else has.

    Classes of one image each are left out: none could be held out, and pretraining
    needs no classes. Stages that do say so.
    """
    present = labels.labels_N[train]
    if labels.classes and 1 < len(train) == len(np.unique(present)):
        note = (
            f"each of {len(train)} images is the only one of its class: the classes are"
            " left out; to keep them add val/ or more images"
        )
        labels = ImageLabels(np.full_like(labels.labels_N, -1), (), None, (note,))
    held_out = holdout_mask(labels.labels_N[train], holdout)
    return train[~held_out], train[held_out], labels


def build_listing(
    catalogue: Catalogue,
    splits: tuple[Indices, Indices],
    labels: ImageLabels,
    root: PurePath,
    class_keys: tuple[str, ...] | None = None,
) -> Listing:
    """Return both splits of a catalogue with their identity and all that is odd.

    class_keys: what stands for the classes in the identity; None: their names.
    """
    names = catalogue.names
    train, val = (
        LabelledNames(take_names(names, split), labels.labels_N[split])
        for split in splits
    )
    store = catalogue.store
    stores = (Subset(store, splits[0]), Subset(store, splits[1]))
    # renamed images, as by the devkit, are not the files of their names
    files_have_names = isinstance(store, FolderStore) and store.names is names

    keys = content_keys(catalogue, splits)
    listed_keys: tuple[list[str], list[str]] = [], []
    # only in small sets: a million keys would take more memory than the names
    if len(names) <= identity.MAX_HASHED_FILES:
        all_keys = list(keys)
        keys = iter(all_keys)
        listed_keys = all_keys[: len(train)], all_keys[len(train) :]
    notes = [
        *catalogue.notes,
        *labels.notes,
        *odd_folders.find_warnings((train, val), listed_keys, labels.classes),
    ]
    return Listing(
        root,
        train,
        val,
        labels.classes,
        compute_identity((train, val), keys, class_keys or labels.classes),
        None if files_have_names else stores,
        tuple(notes),
    )


def _require_images(train: Indices, val: Indices, root: PurePath) -> None:
    if len(train) and len(val):
        return
    suffixes = " ".join(sorted(IMAGE_SUFFIXES))
    # a URL is no folder to look into
    others = (
        f"; what is there: {odd_folders.describe_files(root)}"
        if isinstance(root, Path) and root.is_dir()
        else ""
    )
    raise ValueError(
        f"data.root={root} has {len(train)} training and {len(val)} validation images;"
        f" both need at least one ({suffixes}){others}"
    )


def _require_known_classes(names: Names, val: Indices, labels: ImageLabels) -> None:
    """Raise ValueError for validation images whose class training does not know."""
    classes = labels.classes
    val_labels = labels.labels_N[val]
    # without classes every label is -1, and no image is at fault
    outside = val[val_labels == NO_CLASS_FOLDER] if classes else val[:0]
    if len(outside):
        first = name_at(names, int(outside[0]))
        raise ValueError(
            f"{first} and {len(outside) - 1} more validation images"
            f" lie in no class folder, but training has {len(classes)} classes; sort"
            " them into folders of those names (for ImageNet's flat val/ unpack the"
            f" devkit: {DEVKIT_FOLDER}/ in data.root), or, where they have no labels,"
            " rename their folder: then training images are held out (data.holdout)"
        )
    unknown = val[val_labels == UNKNOWN_CLASS]
    if len(unknown):
        missing = labels.folders.folders_of(unknown) if labels.folders else []
        more = " ..." if len(classes) > SHOWN else ""
        raise ValueError(
            f"validation has {len(missing)} classes that training lacks:"
            f" {', '.join(missing[:SHOWN])}; training has"
            f" {', '.join(classes[:SHOWN])}{more}; give both the same class folders"
        )


def list_image_files(root: Path, folder: Path) -> list[str]:
    """Return the sorted names, relative to the root, of all images below the folder."""
    return list(unpack_names(scan_folders(root, [folder])[0]))
