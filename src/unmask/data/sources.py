"""Data sets whose labels stand in files beside the images: iNaturalist and Places as distributed, or two CSV lists.

Imports no torch, for the same reason as `unmask.data.listing.listing`.
"""

import csv
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from unmask.data.listing.catalogue import held_out
from unmask.data.listing.listing import Listing, identity_of, list_images, listed_marks
from unmask.data.listing.names import Names, Samples
from unmask.data.listing.scan import NO_FILE, size_of

# what a list calls a class: iNaturalist's and Places' number, a CSV's word
Key = int | str
Rows = list[tuple[str, Key]]
LAYOUTS = {
    "inat2017": "train2017.json, val2017.json, train_val_images/",
    "inat2018": "train2018.json, val2018.json, train_val2018/",
    "inat2019": "train2019.json, val2019.json, train_val2019/",
    "places205": (
        "trainvalsplit_places205/train_places205.csv,"
        " trainvalsplit_places205/val_places205.csv,"
        " data/vision/torralba/deeplearning/images256/"
    ),
    "places365": (
        "categories_places365.txt, places365_train_standard.txt, places365_val.txt, and"
        " data_256/ with val_256/ or data_large/ with val_large/"
    ),
    "listed": (
        "train.csv with lines of path,label, the images at those paths, and val.csv"
        " where no share is held out"
    ),
}
IMAGES205 = "data/vision/torralba/deeplearning/images256"


@dataclass(frozen=True)
class Annotated:
    """What the lists say: images relative to the root, each with its class, and the name of each class."""

    train: Rows
    val: Rows
    names: dict[Key, str]


def list_source(
    source: str, root: str | Path, holdout: float = 0.1, container: str = "folder"
) -> Listing:
    """The images of a data set; the share `holdout` is for folders, and lists without a val.csv.

    Raises ValueError with the expected layout where something is missing, and with the place where a list is odd.
    """
    if container != "folder":
        from unmask.data.containers.source import list_container

        return list_container(container, str(root), holdout)
    if source == "image_folder":
        return list_images(root, holdout)
    root = Path(root).expanduser()
    try:
        return _listing(
            root,
            _listed(root, holdout) if source == "listed" else _annotated(source, root),
        )
    except OSError as error:
        reason = (
            "is not there"
            if isinstance(error, FileNotFoundError)
            else f"cannot be read ({error.strerror})"
        )
        raise ValueError(
            f"{error.filename} {reason}; data={source} expects in data.root={root}:"
            f" {LAYOUTS[source]}"
        ) from None


def _annotated(source: str, root: Path) -> Annotated:
    if source.startswith("inat"):
        return _inaturalist(root, source.removeprefix("inat"))
    return {"places205": _places205, "places365": _places365}[source](root)


def _listing(root: Path, found: Annotated) -> Listing:
    """Sorted by name: ids of samples, and what is drawn by them, must not depend on the order of lines."""
    index = {
        key: i
        for i, key in enumerate(
            sorted(found.names, key=lambda key: (isinstance(key, str), key))
        )
    }
    train, val = (
        Samples(sorted(_indexed(rows, index, root)))
        for rows in (found.train, found.val)
    )
    if not train or not val:
        raise ValueError(
            f"the lists in data.root={root} name {len(train)} training and {len(val)}"
            " validation images; both need one"
        )
    names = Names(itertools.chain(train.names, val.names))
    sizes = np.array([size_of(str(root / name)) for name in names], dtype=np.int64)
    gone = sizes == NO_FILE
    for split, part in ((train, gone[: len(train)]), (val, gone[len(train) :])):
        if part.all():  # images that were never unpacked are told with the layout
            (root / split[0][0]).stat()
            raise ValueError(
                f"none of {len(part)} listed images is a file; the first is"
                f" {root / split[0][0]}"
            )
    missing = (
        f"{gone.sum()} of {len(gone)} listed images are not there or cannot be read:"
        f" {names[int(gone.argmax())]}"
    )
    named = Counter(found.names.values())
    classes = tuple(
        (
            f"{found.names[key]} ({key})"
            if named[found.names[key]] > 1
            else found.names[key]
        )
        for key in index
    )
    # the keys, not the names: iNaturalist published its species' names later, for the
    # same images and labels
    marks = listed_marks(root, names, sizes)
    identity = identity_of((train, val), marks, tuple(map(str, index)))
    return Listing(
        root, train, val, classes, identity, notes=(missing,) if gone.any() else ()
    )


def _indexed(
    rows: Rows, index: dict[Key, int], root: Path
) -> Iterable[tuple[str, int]]:
    for name, key in rows:
        path = PurePosixPath(name)
        # known by their place below the root
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


def _inaturalist(root: Path, year: str) -> Annotated:
    """COCO's form; the categories.json that was published later names the species of 2018 and 2019."""
    (train, names), (val, _) = (
        _coco(root / f"train{year}.json"),
        _coco(root / f"val{year}.json"),
    )
    later = root / "categories.json"
    if later.exists():
        names |= {
            key: name
            for key, name in _names(_json(later), later).items()
            if key in names
        }
    return Annotated(train, val, names)


def _coco(path: Path) -> tuple[Rows, dict[Key, str]]:
    content = _json(path)
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
    if len(labels) < len(pairs):
        raise ValueError(
            f"{path} gives {len(pairs) - len(labels)} images two categories; images"
            " have one class each"
        )
    return rows, _names(categories, path)


def _names(categories: Any, path: Path) -> dict[Key, str]:
    try:
        return {each["id"]: str(each["name"]) for each in categories}
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: a category lacks {error}; each needs id and name"
        ) from None


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged or no JSON ({error}); unpack or copy it again"
        ) from None


def _places365(root: Path) -> Annotated:
    """Categories are written /a/airfield, training images /a/airfield/00000001.jpg, validation images bare."""
    names: dict[Key, str] = {
        key: name[3:] for name, key in _lines(root / "categories_places365.txt")
    }
    train, val = (
        _lines(root / "places365_train_standard.txt"),
        _lines(root / "places365_val.txt"),
    )
    # torchvision renames data_256 to data_256_standard
    pairs = [
        (f"data_{size}{more}", f"val_{size}")
        for size in ("256", "large")
        for more in ("", "_standard")
    ]
    chosen = next(
        (pair for pair in pairs if all((root / folder).is_dir() for folder in pair)),
        pairs[0],
    )
    return Annotated(_below(chosen[0], train), _below(chosen[1], val), names)


def _places205(root: Path) -> Annotated:
    """Lines are a/abbey/gsun_1.jpg 0: the folders of the training images name the classes."""
    lists = root / "trainvalsplit_places205"
    train, val = (
        _lines(lists / "train_places205.csv"),
        _lines(lists / "val_places205.csv"),
    )
    names: dict[Key, str] = {
        key: "/".join(PurePosixPath(name).parts[1:-1]) or str(key)
        for name, key in train
    }
    return Annotated(_below(IMAGES205, train), _below(IMAGES205, val), names)


def _below(folder: str, rows: Rows) -> Rows:
    return [(f"{folder}/{name.lstrip('/')}", key) for name, key in rows]


def _lines(path: Path) -> Rows:
    """Lines of a name, a space and a number."""
    rows: Rows = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        name, _, label = line.strip().rpartition(" ")
        if name and label.isdecimal():
            rows.append((name.strip(), int(label)))
        elif line.strip():
            raise ValueError(
                f"line {number} of {path} is {line[:80]!r}; expected a name, a space"
                " and a number"
            )
    return rows


def _listed(root: Path, holdout: float) -> Annotated:
    """Labels are numbers where all are, in the order of numbers, else words. One list alone is split as a folder is."""
    train = _csv(root / "train.csv")
    if (root / "val.csv").exists():
        val = _csv(root / "val.csv")
    else:
        rows = sorted(train)
        held = held_out(
            np.unique([str(label) for _, label in rows], return_inverse=True)[1],
            holdout,
        ).tolist()
        train = [row for row, out in zip(rows, held, strict=True) if not out]
        val = [row for row, out in zip(rows, held, strict=True) if out]
    if all(str(label).isdecimal() for _, label in (*train, *val)):
        train, val = _numbered(train), _numbered(val)
    return Annotated(train, val, {label: str(label) for _, label in train})


def _numbered(rows: Rows) -> Rows:
    return [(name, int(label)) for name, label in rows]


def _csv(path: Path) -> Rows:
    rows: Rows = []
    try:
        # -sig: spreadsheets put a mark first
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 (byte {error.start}); save it as CSV UTF-8"
        ) from None
    for number, row in enumerate(csv.reader(io.StringIO(text, newline="")), start=1):
        cells = [cell.strip() for cell in row]
        if len(cells) == 2 and all(cells):
            rows.append((cells[0], cells[1]))
        elif any(cells):
            raise ValueError(
                f"line {number} of {path} is {','.join(row)[:80]!r}; expected"
                " path,label"
            )
    return rows[1:] if rows[:1] == [("path", "label")] else rows


CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
CLASSES = {
    "mnist5k": tuple("0123456789"),
    "cifar10": tuple(CIFAR10.split()),
    "cifar100": tuple(CIFAR100.split()),
}
