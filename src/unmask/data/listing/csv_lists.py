"""Lists of images and their classes: train.csv and, where it is there, val.csv.

What a column is follows from what stands in it: paths of images, and beside them the
classes. A first line that names no image is a header. Imports no torch.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from unmask.config.datasets import Annotations, LabelledPaths
from unmask.data.listing.conventions import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    TRAIN_WORDS,
    VAL_WORDS,
    class_keys,
    find_column,
    find_splits,
    has_image_suffix,
    normalise_column,
    split_word,
)

MAX_SHOWN = 80  # characters of a line in a message
MAX_SNIFFED = 1000  # lines that tell the delimiter
LIST_SUFFIXES = (".csv", ".tsv", ".txt")
TEST_WORDS = ("test", "testing")
# Columns that tell the split of each image.
SPLIT_COLUMNS = ("split", "splits", "subset", "set", "partition", "phase", "dataset")
# What stands for no label; nan as pandas writes it.
MISSING_LABELS = ("", "nan")
DELIMITERS = (",", ";", "\t", "|")
KNOWN_COLUMNS = frozenset([*IMAGE_COLUMNS, *LABEL_COLUMNS])
# Names of columns that may count the lines.
COUNT_COLUMNS = ("", "id", "idx", "index", "number", "unnamed_0")
# Marks at the start of files that are UTF-16, as spreadsheets save "Unicode text".
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class Line(NamedTuple):
    """Hold the cells of a line that is not blank, counted from 1."""

    number: int
    cells: list[str]


class Lists(NamedTuple):
    """Name the lists of a folder: of training, of validation, and all of them."""

    train: Path | None
    val: Path | None
    files: tuple[Path, ...]


def read_csv_lists(root: Path) -> Annotations:
    """Read train.csv and, where it is there, val.csv, in any spelling of the splits.

    A column of one list may tell the splits, too. Labels are numbers, in the order of
    numbers, where all of them are; otherwise words. Raises ValueError with the line or
    the columns that cannot be understood.
    """
    lists = find_lists(root)
    if lists.train:
        by_split = read_splits(lists.train)
    else:
        by_split = _read_only_list(lists.files) or read_splits(root / "train.csv")
    train = [row for word in ("", *TRAIN_WORDS) for row in by_split.get(word, ())]
    val = None
    if lists.val:
        val = read_table(lists.val)
    elif held_out := next((word for word in VAL_WORDS if word in by_split), None):
        val = by_split[held_out]
    keys = class_keys({label for _, label in (*train, *(val or []))})
    train = [(path, keys[label]) for path, label in train]
    if val is not None:
        val = [(path, keys[label]) for path, label in val]
    return Annotations(train, val, {label: str(label) for _, label in train})


def find_lists(root: Path) -> Lists:
    """Find the lists in a folder by their names; ValueError for two of one split."""
    # the first ending is taken where a list has several
    files = sorted(root.iterdir(), key=lambda path: (path.suffix.lower(), path.name))
    lists: dict[str, Path] = {}
    for file in files:
        if file.suffix.lower() in LIST_SUFFIXES:
            lists.setdefault(file.stem, file)
    # lists of test images are often without labels
    splits = find_splits([n for n in lists if split_word(n) not in TEST_WORDS])
    return Lists(
        lists[splits.train] if splits.train else None,
        lists[splits.val] if splits.val else None,
        tuple(lists.values()),
    )


def _read_only_list(lists: Sequence[Path]) -> dict[str, LabelledPaths]:
    """Return the splits that the only list tells, whatever it is called, or {}."""
    tables = [path for path in lists if path.suffix.lower() != ".txt"]
    if len(tables) != 1:
        return {}
    try:
        by_split = read_splits(tables[0])
    # another table, which is not said to list images
    except ValueError:
        return {}
    return {} if "" in by_split else by_split


def read_table(path: Path) -> LabelledPaths:
    """Read the (path, label) of each line of a list; labels are words."""
    return [row for rows in read_splits(path).values() for row in rows]


def read_splits(path: Path) -> dict[str, LabelledPaths]:
    """Read the (path, label) of each line by the split's word that a column tells.

    The word is "" where no column does. Test images without a label are left out.
    """
    lines = _split_lines(_read_text(path), path)
    if not lines:
        return {"": []}
    width = Counter(len(line.cells) for line in lines).most_common(1)[0][0]
    names_image = _image_test(path.parent, lines)
    header = _find_header(lines, names_image, path)
    if header:
        # headers come again where lists were joined
        lines = [line for line in lines if line.cells != header]
        width = len(header)
    odd = next((line for line in lines if len(line.cells) != width), None)
    if odd or width < 2:
        line = odd or lines[0]
        shown = ",".join(header) if header else "path,label"
        raise ValueError(
            f"line {line.number} of {path} is {','.join(line.cells)[:MAX_SHOWN]!r};"
            f" expected {shown}"
        )
    image, label = _find_columns(header, lines, names_image, width, path)
    split = _find_split_column(header or [], lines, (image, label))
    # as Windows writes paths
    is_windows = all(
        "\\" in line.cells[image] and "/" not in line.cells[image] for line in lines
    )
    by_split: dict[str, LabelledPaths] = {}
    for line in lines:
        word = "" if split is None else str(split_word(line.cells[split]))
        name, value = line.cells[image], line.cells[label]
        has_label = value.casefold() not in MISSING_LABELS
        if word in TEST_WORDS and not has_label:
            continue
        if not name or not has_label:
            raise ValueError(
                f"line {line.number} of {path} is"
                f" {','.join(line.cells)[:MAX_SHOWN]!r}; expected a path and a label in"
                " each line"
            )
        name = name.replace("\\", "/") if is_windows else name
        by_split.setdefault(word, []).append((name, value))
    return by_split


def _find_split_column(
    header: list[str], lines: Sequence[Line], taken: tuple[int, int]
) -> int | None:
    """Return the column whose cells all are words for splits, of two kinds or more."""
    for k, name in enumerate(header):
        if k in taken or normalise_column(name) not in SPLIT_COLUMNS:
            continue
        words = {split_word(line.cells[k]) for line in lines}
        if None not in words and len(words) > 1:
            return k
    return None


def _read_text(path: Path) -> str:
    content = path.read_bytes()
    try:
        if content[:2] in UTF16_MARKS:
            return content.decode("utf-16")
        # -sig: spreadsheets begin UTF-8 with a byte order mark
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 (byte {error.start}); save it as CSV UTF-8"
        ) from None


def _split_lines(text: str, path: Path) -> list[Line]:
    """Split all lines by the delimiter that gives each the same number of cells."""

    def fit(delimiter: str) -> tuple[bool, bool, bool]:
        """Rate even tables best, then those with a column of images, then any."""
        lines = _parse(beginning, delimiter, path)
        widths = {len(line.cells) for line in lines}
        columns = zip(*(line.cells for line in lines[1:] or lines), strict=False)
        has_images = any(all(map(has_image_suffix, column)) for column in columns)
        return len(widths) == 1 and widths != {1}, has_images, widths != {1}

    beginning = "\n".join(text.splitlines()[:MAX_SNIFFED])
    delimiter = max(DELIMITERS, key=fit)
    lines = _parse(text, delimiter, path)
    if path.suffix.lower() == ".txt" and all(len(line.cells) == 1 for line in lines):
        # train.txt of Caffe and others: a path, which may have blanks, and a number
        lines = [Line(n, cells[0].rsplit(None, 1)) for n, cells in lines]
    return lines


def _parse(text: str, delimiter: str, path: Path) -> list[Line]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    lines = []
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                lines.append(Line(reader.line_num, cells))
    except csv.Error as error:
        raise ValueError(
            f"line {reader.line_num} of {path} cannot be read ({error}); save it as CSV"
            " UTF-8"
        ) from None
    # a delimiter at the end of each line makes an empty last column
    while lines and all(len(line.cells) > 1 and not line.cells[-1] for line in lines):
        lines = [Line(line.number, line.cells[:-1]) for line in lines]
    return lines


def _image_test(folder: Path, lines: Sequence[Line]) -> Callable[[str], bool]:
    """Return what tells the path of an image: its suffix, or that the file is there."""
    if any(has_image_suffix(cell) for line in lines for cell in line.cells):
        return has_image_suffix
    return lambda cell: bool(cell) and (folder / cell).is_file()


def _find_header(
    lines: Sequence[Line], names_image: Callable[[str], bool], path: Path
) -> list[str] | None:
    """Return the first line if it is a header: it names no image, and others do."""
    first, rest = lines[0].cells, lines[1:]
    is_known = any(normalise_column(cell) in KNOWN_COLUMNS for cell in first)
    if any(map(names_image, first)):
        return None
    if not rest:
        return first if is_known else None
    if not any(names_image(cell) for line in rest for cell in line.cells):
        return first if is_known else None
    # a misspelt path beside the label of another line is no header
    seen = {cell for line in rest for cell in line.cells if cell}
    if not is_known and seen.intersection(first):
        raise ValueError(
            f"line 1 of {path} is {','.join(first)[:MAX_SHOWN]!r}: neither a header nor"
            " the path of an image; begin with path,label"
        )
    return first


def _find_columns(
    header: list[str] | None,
    lines: Sequence[Line],
    names_image: Callable[[str], bool],
    width: int,
    path: Path,
) -> tuple[int, int]:
    """Return the columns of the paths and of the labels."""
    names = header or [""] * width
    counts = [sum(names_image(line.cells[k]) for line in lines) for k in range(width)]
    by_name = find_column(names, IMAGE_COLUMNS)
    if lines and max(counts):
        image = counts.index(max(counts))
        tied = [k for k in range(width) if counts[k] == counts[image]]
        if by_name is not None and names.index(by_name) in tied:
            image = names.index(by_name)
    else:
        image = names.index(by_name) if by_name is not None else 0
    others = [k for k in range(width) if k != image]
    label_name = find_column([names[k] for k in others], LABEL_COLUMNS)
    if label_name is not None:
        return image, next(k for k in others if names[k] == label_name)
    if len(others) > 1:
        # pandas writes the number of each line before it, with or without a name
        others = [
            k
            for k in others
            if normalise_column(names[k]) not in COUNT_COLUMNS
            or not _counts_lines(k, lines)
        ]
    if len(others) == 1:
        return image, others[0]
    shown = ",".join(header or lines[0].cells)[:MAX_SHOWN]
    raise ValueError(
        f"line 1 of {path} is {shown!r}: which column is the class cannot be told; name"
        " it label in a header"
    )


def _counts_lines(column: int, lines: Sequence[Line]) -> bool:
    cells = [line.cells[column] for line in lines]
    return any(
        cells == [str(k) for k in range(start, start + len(cells))] for start in (0, 1)
    )
