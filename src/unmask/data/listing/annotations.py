"""Readers of labels that are stored in files beside the images.

iNaturalist and Places as they are distributed, or CSV lists. Imports no torch.
"""

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from unmask.data.listing.catalogue import holdout_mask

# What annotations call a class: a number in iNaturalist and Places, a word in a CSV.
ClassKey = int | str

# (path, class) of each image.
LabelledPaths = list[tuple[str, ClassKey]]

PLACES205_IMAGES = "data/vision/torralba/deeplearning/images256"

MAX_SHOWN = 80  # characters of a line in a message


@dataclass(frozen=True)
class Annotations:
    """Hold the images of both splits with their classes, and the name of each class.

    Paths are relative to the root, or absolute below it.
    """

    train: LabelledPaths
    val: LabelledPaths
    class_names: dict[ClassKey, str]


def read_annotations(source: str, root: Path, holdout: float) -> Annotations:
    """Read the annotations of a data set.

    holdout: the share of training that becomes validation where a CSV has no val.csv.
    Raises OSError where a file is missing, ValueError where it cannot be understood.
    """
    if source.startswith("inat"):
        return _read_inaturalist(root, source.removeprefix("inat"))
    if source == "places205":
        return _read_places205(root)
    if source == "places365":
        return _read_places365(root)
    return _read_csv_lists(root, holdout)


def _read_inaturalist(root: Path, year: str) -> Annotations:
    """Read COCO's form, and the names of species where they were published later."""
    train, class_names = _read_coco(root / f"train{year}.json")
    val, _ = _read_coco(root / f"val{year}.json")
    # 2018 and 2019 were first published with numbers in place of names
    published_later = root / "categories.json"
    if published_later.exists():
        names = _category_names(_read_json(published_later), published_later)
        class_names |= {key: names[key] for key in class_names.keys() & names.keys()}
    return Annotations(train, val, class_names)


def _read_coco(path: Path) -> tuple[LabelledPaths, dict[ClassKey, str]]:
    content = _read_json(path)
    try:
        pairs = {
            (each["image_id"], each["category_id"]) for each in content["annotations"]
        }
        labels = dict(pairs)
        rows = [
            (image["file_name"], labels[image["id"]]) for image in content["images"]
        ]
        categories = content["categories"]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} lacks {error}; it needs images (id, file_name), annotations"
            " (image_id, category_id), one of each image, and categories (id, name)"
        ) from None
    # the dict keeps one category of each image
    if len(labels) < len(pairs):
        raise ValueError(
            f"{path} gives {len(pairs) - len(labels)} images two categories; images"
            " have one class each"
        )
    return rows, _category_names(categories, path)


def _category_names(categories: Any, path: Path) -> dict[ClassKey, str]:
    try:
        return {each["id"]: str(each["name"]) for each in categories}
    except KeyError as error:
        raise ValueError(
            f"{path}: a category has no {error}; each needs id and name"
        ) from None
    except TypeError:
        raise ValueError(
            f"{path}: categories must be a list of objects with id and name, not"
            f" {type(categories).__name__}"
        ) from None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged or not JSON ({error}); unpack or copy it again"
        ) from None


def _read_places365(root: Path) -> Annotations:
    """Read Places365 with small or large images.

    Categories are written as /a/airfield, training images as
    /a/airfield/00000001.jpg, validation images without a folder.
    """
    categories = _read_numbered_lines(root / "categories_places365.txt")
    train = _read_numbered_lines(root / "places365_train_standard.txt")
    val = _read_numbered_lines(root / "places365_val.txt")
    # torchvision renames data_256 to data_256_standard
    candidates = [
        (f"data_{size}{ending}", f"val_{size}")
        for size in ("256", "large")
        for ending in ("", "_standard")
    ]
    train_folder, val_folder = next(
        (
            folders
            for folders in candidates
            if all((root / folder).is_dir() for folder in folders)
        ),
        # the first is named in the error when its images are missed
        candidates[0],
    )
    # /a/airfield is an airfield
    class_names: dict[ClassKey, str] = {key: name[3:] for name, key in categories}
    return Annotations(
        _put_below(train_folder, train), _put_below(val_folder, val), class_names
    )


def _read_places205(root: Path) -> Annotations:
    """Read Places205, whose lines are like a/abbey/gsun_1.jpg 0.

    The folders of the training images name the classes.
    """
    lists = root / "trainvalsplit_places205"
    train = _read_numbered_lines(lists / "train_places205.csv")
    val = _read_numbered_lines(lists / "val_places205.csv")
    class_names: dict[ClassKey, str] = {}
    for path, key in train:
        # without the letter and the file: a/abbey/gsun_1.jpg is an abbey
        folders = PurePosixPath(path).parts[1:-1]
        class_names[key] = "/".join(folders) or str(key)
    return Annotations(
        _put_below(PLACES205_IMAGES, train),
        _put_below(PLACES205_IMAGES, val),
        class_names,
    )


def _put_below(folder: str, rows: LabelledPaths) -> LabelledPaths:
    return [(f"{folder}/{path.lstrip('/')}", key) for path, key in rows]


def _read_numbered_lines(path: Path) -> LabelledPaths:
    """Read lines of a name, a space and a number."""
    rows: LabelledPaths = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        # names may contain spaces
        name, _, label = line.strip().rpartition(" ")
        if name and label.isdecimal():
            rows.append((name.strip(), int(label)))
        elif line.strip():
            raise ValueError(
                f"line {number} of {path} is {line[:MAX_SHOWN]!r}; expected a name, a"
                " space and a number"
            )
    return rows


def _read_csv_lists(root: Path, holdout: float) -> Annotations:
    """Read train.csv and val.csv; without val.csv a share is held out as in a folder.

    Labels are numbers, in the order of numbers, where all of them are; otherwise words.
    """
    train = _read_csv(root / "train.csv")
    if (root / "val.csv").exists():
        val = _read_csv(root / "val.csv")
    else:
        train, val = _hold_out(train, holdout)
    if all(str(label).isdecimal() for _, label in (*train, *val)):
        train = _with_number_labels(train)
        val = _with_number_labels(val)
    return Annotations(train, val, {label: str(label) for _, label in train})


def _hold_out(
    rows: LabelledPaths, holdout: float
) -> tuple[LabelledPaths, LabelledPaths]:
    # sorted: the order of lines must not decide which images are held out
    rows = sorted(rows)
    words = [str(label) for _, label in rows]
    _, label_ids = np.unique(words, return_inverse=True)
    mask = holdout_mask(label_ids, holdout).tolist()
    train = [
        row for row, is_held_out in zip(rows, mask, strict=True) if not is_held_out
    ]
    val = [row for row, is_held_out in zip(rows, mask, strict=True) if is_held_out]
    return train, val


def _with_number_labels(rows: LabelledPaths) -> LabelledPaths:
    return [(path, int(label)) for path, label in rows]


def _read_csv(path: Path) -> LabelledPaths:
    try:
        # -sig: spreadsheets begin UTF-8 with a byte order mark
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 (byte {error.start}); save it as CSV UTF-8"
        ) from None
    rows: LabelledPaths = []
    for number, row in enumerate(csv.reader(io.StringIO(text, newline="")), start=1):
        cells = [cell.strip() for cell in row]
        if len(cells) == 2 and all(cells):
            rows.append((cells[0], cells[1]))
        elif any(cells):
            raise ValueError(
                f"line {number} of {path} is {','.join(row)[:MAX_SHOWN]!r}; expected"
                " path,label"
            )
    has_header = rows[:1] == [("path", "label")]
    return rows[1:] if has_header else rows


def label_rows(
    rows: LabelledPaths, index: dict[ClassKey, int], root: Path
) -> Iterable[tuple[str, int]]:
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
