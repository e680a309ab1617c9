"""Lists of images and their classes as CSV: train.csv and, where it is there, val.csv.

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
    class_keys,
    find_column,
    find_splits,
    has_image_suffix,
    normalise_column,
    split_word,
)

MAX_SHOWN = 80  # characters of a line in a message
MAX_SNIFFED = 1000  # lines that tell the delimiter
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


def read_csv_lists(root: Path) -> Annotations:
    """Read train.csv and, where it is there, val.csv, in any spelling of the splits.

    Labels are numbers, in the order of numbers, where all of them are; otherwise words.
    Raises ValueError with the line or the columns that cannot be understood.
    """
    lists = {
        path.stem: path for path in root.iterdir() if path.suffix.lower() == ".csv"
    }
    # lists of test images are often without labels
    splits = find_splits([n for n in lists if split_word(n) not in ("test", "testing")])
    train = read_table(lists[splits.train] if splits.train else root / "train.csv")
    val = read_table(lists[splits.val]) if splits.val else []
    keys = class_keys({label for _, label in (*train, *val)})
    train, val = (
        [(path, keys[label]) for path, label in rows] for rows in (train, val)
    )
    return Annotations(
        train, val if splits.val else None, {label: str(label) for _, label in train}
    )


def read_table(path: Path) -> LabelledPaths:
    """Return the (path, label) of each line of a list; labels are words."""
    lines = _split_lines(_read_text(path), path)
    if not lines:
        return []
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
    empty = next(
        (ln for ln in lines if not (ln.cells[image] and ln.cells[label])), None
    )
    if empty:
        raise ValueError(
            f"line {empty.number} of {path} is {','.join(empty.cells)[:MAX_SHOWN]!r};"
            " expected a path and a label in each line"
        )
    paths = [line.cells[image] for line in lines]
    # as Windows writes paths
    if all("\\" in path and "/" not in path for path in paths):
        paths = [path.replace("\\", "/") for path in paths]
    labels = (line.cells[label] for line in lines)
    return list(zip(paths, labels, strict=True))


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
    return _parse(text, max(DELIMITERS, key=fit), path)


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
