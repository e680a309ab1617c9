"""Data sets by name: folders of images, containers, and labels in files beside them.

Imports no torch, for the same reason as `unmask.data.listing.listing`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from posixpath import normpath

import numpy as np

from unmask.config.datasets import (
    Annotations,
    ClassKey,
    LabelledPaths,
    find_dataset,
)
from unmask.data.listing.catalogue import catalogue_files
from unmask.data.listing.conventions import sort_classes
from unmask.data.listing.listing import (
    ImageLabels,
    Listing,
    build_listing,
    hold_out,
    list_images,
)
from unmask.data.listing.names import Names, name_at, pack_names, unpack_names
from unmask.data.listing.scan import NOT_A_FILE, file_size

# A path relative to the root, and the index of its class.
LabelledName = tuple[str, int]


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
    lists = find_dataset(source).lists
    if not lists:
        return list_images(root, holdout)
    root = Path(root).expanduser()
    try:
        return _to_listing(root, lists.read(root), holdout)
    except OSError as error:
        reason = (
            "is not there"
            if isinstance(error, FileNotFoundError)
            else f"cannot be read ({error.strerror})"
        )
        raise ValueError(
            f"{error.filename} {reason}; data={source} expects in data.root={root}:"
            f" {lists.layout}"
        ) from None


def _to_listing(root: Path, annotations: Annotations, holdout: float) -> Listing:
    keys = sort_classes(annotations.class_names)
    index = {key: i for i, key in enumerate(keys)}
    # Sorted by name: the ids of samples, and the randomness that is drawn by them,
    # must not depend on the order of lines.
    train_rows, val_rows = (
        sorted(set(_label_rows(rows, index, root)))
        for rows in (annotations.train, annotations.val or [])
    )
    rows = train_rows + val_rows
    _require_one_class(rows, keys)
    class_names = _unique_class_names(annotations)
    labels = ImageLabels(
        np.array([label for _, label in rows], dtype=np.int32),
        tuple(class_names[key] for key in keys),
    )
    indices = np.arange(len(rows), dtype=np.int32)
    train, val = indices[: len(train_rows)], indices[len(train_rows) :]
    if annotations.val is None:
        train, val, labels = hold_out(train, labels, holdout)
    if not len(train) or not len(val):
        raise ValueError(
            f"the lists in data.root={root} name {len(train)} training and {len(val)}"
            " validation images; both need one"
        )
    names = pack_names(name for name, _ in rows)
    sizes = np.array(
        [file_size(str(root / name)) for name in unpack_names(names)], dtype=np.int64
    )
    for split in (train, val):
        _require_files(root, names.take(split), sizes[split])
    listed = len(annotations.train) + len(annotations.val or [])
    notes = (
        *_missing_files_note(names, sizes),
        *_repeats_note(listed - len(rows), {name for name, _ in train_rows}, val_rows),
    )
    return build_listing(
        replace(catalogue_files(root, names, sizes), notes=notes),
        (train, val),
        labels,
        root,
        # Keys, not names, in the identity: iNaturalist published the names of its
        # species later, for the same images and labels.
        tuple(map(str, keys)) if labels.classes else (),
    )


def _require_one_class(rows: list[LabelledName], keys: Sequence[ClassKey]) -> None:
    """Raise ValueError for an image that is listed with two classes."""
    labels: dict[str, int] = {}
    for name, label in rows:
        # ./a.png is a.png
        other = labels.setdefault(normpath(name), label)
        if other != label:
            raise ValueError(
                f"{name} is listed with two labels, {keys[other]} and {keys[label]};"
                " images have one class each: correct or remove a line"
            )


def _repeats_note(
    repeated: int, train: set[str], val: list[LabelledName]
) -> Iterator[str]:
    if repeated:
        yield f"{repeated} lines of the lists repeat others, and count once"
    shared = [name for name, _ in val if name in train]
    if shared:
        yield (
            f"{len(shared)} of {len(val)} listed validation images are listed for"
            f" training, too: {shared[0]}"
        )


def _require_files(root: Path, names: Names, sizes: np.ndarray) -> None:
    """Raise an error where no image of a split is a file."""
    if (sizes == NOT_A_FILE).all():
        first = root / name_at(names, 0)
        # raises OSError for images that were never unpacked: the layout is shown
        first.stat()
        raise ValueError(
            f"none of {len(names)} listed images is a file; the first is {first}"
        )


def _missing_files_note(names: Names, sizes: np.ndarray) -> tuple[str, ...]:
    missing = sizes == NOT_A_FILE
    if not missing.any():
        return ()
    first = name_at(names, int(missing.argmax()))
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


def _label_rows(
    rows: LabelledPaths, index: Mapping[ClassKey, int], root: Path
) -> Iterator[LabelledName]:
    """Yield (path relative to the root, index of the class) of each image.

    Raises ValueError for paths that leave the root and for unknown classes.
    """
    for name, key in rows:
        path = PurePosixPath(name)
        # the same list is the same data set wherever the root lies
        if path.is_absolute() and path.is_relative_to(root.absolute()):
            path = path.relative_to(root.absolute())
            name = str(path)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(
                f"{name} is listed with a path that leaves data.root; give paths"
                " relative to it"
            )
        if key not in index:
            known = ", ".join(map(str, list(index)[:5]))
            raise ValueError(
                f"{name} is listed with label {key}, which training lacks; it has"
                f" {known} ..."
            )
        yield name, index[key]
