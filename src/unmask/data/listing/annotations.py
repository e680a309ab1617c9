"""Readers of labels that stand in files beside the images.

COCO's JSON as iNaturalist's, or numbered lines as Places'. Which data set has which is
said in `unmask.config.datasets`. Imports no torch.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unmask.config.datasets import Annotations, ClassKey, LabelledPaths

MAX_SHOWN = 80  # characters of a line in a message


def read_coco_lists(root: Path, train: str, val: str, names: str) -> Annotations:
    """Read two files in COCO's form.

    names: a file with the names of classes, where they were published later.
    """
    train_rows, class_names = _read_coco(root / train)
    val_rows, _ = _read_coco(root / val)
    published_later = root / names
    if published_later.exists():
        later = _category_names(_read_json(published_later), published_later)
        class_names |= {key: later[key] for key in class_names.keys() & later.keys()}
    return Annotations(train_rows, val_rows, class_names)


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


def read_numbered_lists(
    root: Path,
    train: str,
    val: str,
    folders: Sequence[tuple[str, str]],
    categories: str | None = None,
) -> Annotations:
    """Read lists whose lines are a path, a space and the number of a class.

    folders: where the images of training and of validation may lie; the first pair that
    is there is taken. categories: a list of classes, like /a/airfield; None: the
    folders of training images, like a/abbey/gsun_1.jpg, name them.
    """
    train_rows = _read_numbered_lines(root / train)
    val_rows = _read_numbered_lines(root / val)
    train_folder, val_folder = next(
        (pair for pair in folders if all((root / each).is_dir() for each in pair)),
        # the first is named in the error when its images are missed
        folders[0],
    )
    class_folders = (
        _read_numbered_lines(root / categories)
        if categories
        else [(path.rpartition("/")[0], key) for path, key in train_rows]
    )
    return Annotations(
        _put_below(train_folder, train_rows),
        _put_below(val_folder, val_rows),
        # a/airfield is an airfield
        {
            key: folder.lstrip("/").partition("/")[2] or str(key)
            for folder, key in class_folders
        },
    )


def _put_below(folder: str, rows: LabelledPaths) -> LabelledPaths:
    return [(f"{folder}/{path.lstrip('/')}", key) for path, key in rows]


def _read_numbered_lines(path: Path) -> LabelledPaths:
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
