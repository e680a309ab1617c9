"""Data sets by name: folders of images, containers, and labels in files beside them.

Imports no torch, for the same reason as `unmask.data.listing.listing`.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from unmask.config.datasets import (
    DATASETS,
    Annotations,
    ClassKey,
    LabelledPaths,
)
from unmask.data.listing.catalogue import holdout_mask
from unmask.data.listing.identity import compute_identity, file_content_keys
from unmask.data.listing.listing import Listing, list_images
from unmask.data.listing.names import (
    LabelledNames,
    Names,
    name_at,
    pack_names,
    unpack_names,
)
from unmask.data.listing.scan import NOT_A_FILE, file_size


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
    lists = DATASETS[source].lists
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
    # numbers before words, each in their order
    keys = sorted(annotations.class_names, key=lambda key: (isinstance(key, str), key))
    index = {key: i for i, key in enumerate(keys)}
    train_rows, val_rows = annotations.train, annotations.val
    if val_rows is None:
        train_rows, val_rows = _hold_out(train_rows, holdout)
    # Sorted by name: the ids of samples, and the randomness that is drawn by them,
    # must not depend on the order of lines.
    train, val = (
        _pack(sorted(_label_rows(rows, index, root))) for rows in (train_rows, val_rows)
    )
    if not train or not val:
        raise ValueError(
            f"the lists in data.root={root} name {len(train)} training and {len(val)}"
            " validation images; both need one"
        )
    names = pack_names(name for name, _ in itertools.chain(train, val))
    sizes = np.array(
        [file_size(str(root / name)) for name in unpack_names(names)], dtype=np.int64
    )
    _require_files(root, train, sizes[: len(train)])
    _require_files(root, val, sizes[len(train) :])

    class_names = _unique_class_names(annotations)
    # Keys, not names: iNaturalist published the names of its species later, for the
    # same images and labels.
    identity = compute_identity(
        (train, val),
        file_content_keys(root, names, sizes),
        tuple(map(str, keys)),
    )
    return Listing(
        root,
        train,
        val,
        tuple(class_names[key] for key in keys),
        identity,
        notes=_missing_files_note(names, sizes),
    )


def _pack(rows: list[tuple[str, int]]) -> LabelledNames:
    labels = np.array([label for _, label in rows], dtype=np.int32)
    return LabelledNames(pack_names(name for name, _ in rows), labels)


def _require_files(root: Path, split: LabelledNames, sizes: np.ndarray) -> None:
    """Raise an error where no image of a split is a file."""
    if (sizes == NOT_A_FILE).all():
        first = root / name_at(split.names, 0)
        # raises OSError for images that were never unpacked: the layout is shown
        first.stat()
        raise ValueError(
            f"none of {len(split)} listed images is a file; the first is {first}"
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


def _hold_out(
    rows: LabelledPaths, holdout: float
) -> tuple[LabelledPaths, LabelledPaths]:
    # sorted: the order of lines must not decide which images are held out
    rows = sorted(rows)
    _, label_ids = np.unique([str(label) for _, label in rows], return_inverse=True)
    mask = holdout_mask(label_ids, holdout)
    train = list(itertools.compress(rows, ~mask))
    return train, list(itertools.compress(rows, mask))


def _label_rows(
    rows: LabelledPaths, index: Mapping[ClassKey, int], root: Path
) -> Iterator[tuple[str, int]]:
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
