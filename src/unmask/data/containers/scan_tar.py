"""Tar shards as WebDataset and the Hub write them.

What belongs to an image has the image's name with another suffix, or its WebDataset
key, which is the name up to the first point.
"""

import io
import json
import tarfile
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from unmask.config.datasets import ClassKey
from unmask.data.containers.tar_names import decode_name, split_key
from unmask.data.listing.conventions import (
    LABEL_COLUMNS,
    MASK_WORDS,
    find_column,
    has_image_suffix,
    is_hidden,
)

# Longer texts are captions.
MAX_LABEL_BYTES = 200
# Names in a key's place, as in label.json and 0001/class.txt.
LABEL_WORDS = frozenset(LABEL_COLUMNS)
# What a label that is an object calls its class.
NAME_KEYS = ("name", "label", "text", "value", "id")
MAX_KEYS = 5  # of JSON, in a note


class ImageEntry(NamedTuple):
    """Describe an image in a shard; label: None where none is stored with it.

    pixels: height, width, channels and `type_code` where no file is encoded.
    """

    name: str
    label: ClassKey | None
    size: int
    offset: int
    pixels: tuple[int, int, int, int] | None = None


class ScannedShard(NamedTuple):
    """List what one shard holds.

    classes: names of the labels 0, 1, ..., where the shard stores them. are_texts: the
    labels are texts, which may be captions. unread: kinds of what lies beside the
    images. masks: kinds of pictures that belong to an image and are none themselves.
    """

    entries: list[ImageEntry]
    classes: tuple[str, ...] = ()
    are_texts: bool = False
    unread: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()


def scan_tar(file: Any, shard: str) -> ScannedShard:
    """List the images of a tar by its headers; of the contents only labels are read.

    Raises ValueError where the shard is damaged or ends too early.
    """
    entries: list[ImageEntry] = []
    beside = FilesBeside()
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                if not member.isfile() or is_hidden(name):
                    continue
                is_label = member.size <= MAX_LABEL_BYTES and _has_label_field(name)
                if has_image_suffix(name) and not is_label:
                    entry = ImageEntry(name, None, member.size, member.offset_data)
                    entries.append(entry)
                else:
                    beside.read(file, member, name)
            # A tar that was cut between two members looks complete, but for the
            # block of zeros at its end.
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"no end of the archive at byte {tar.offset}")
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(
            f"{shard} is not a complete tar file ({error}); copy or make it again"
        ) from None
    entries, masks = _without_masks(entries)
    # labels may follow the image that they belong to
    names = [entry.name for entry in entries]
    labels, are_texts = beside.labels_of(names)
    labelled = [
        ImageEntry(decode_name(name), label, size, offset)
        for (name, _, size, offset, _), label in zip(entries, labels, strict=True)
    ]
    return ScannedShard(labelled, (), are_texts, tuple(beside.unread), masks)


def _fields(name: str) -> list[str]:
    """Return the parts of a name between its key and its suffix, in lower case."""
    return split_key(name)[1].lower().split(".")[:-1]


def _has_label_field(name: str) -> bool:
    """Say whether a member is the label of a sample, as 0001.label.npy."""
    return name.lower().endswith(".npy") and not LABEL_WORDS.isdisjoint(_fields(name))


def _without_masks(
    entries: list[ImageEntry],
) -> tuple[list[ImageEntry], tuple[str, ...]]:
    """Leave out pictures that belong to another image, as 0001.seg.png of 0001.jpg.

    Also returns their kinds: .seg.png.
    """

    # few names have more points than the one before the suffix
    masks = {
        entry.name
        for entry in entries
        if entry.name.count(".") > 1 and not MASK_WORDS.isdisjoint(_fields(entry.name))
    }
    if not masks:
        return entries, ()
    keys = {split_key(entry.name)[0] for entry in entries if entry.name not in masks}
    kept: list[ImageEntry] = []
    kinds: dict[str, None] = {}
    for entry in entries:
        key, fields = split_key(entry.name)
        if entry.name in masks and key in keys:
            kinds[f".{fields.lower()}"] = None
        else:
            kept.append(entry)
    return kept, tuple(kinds)


class FilesBeside:
    """Read the labels beside images; unread: kinds of files that hold none."""

    def __init__(self) -> None:
        # the best source first: a .cls file, JSON, a text
        self.sources = (Labels(), Labels(), Labels())
        self.unread: dict[str, None] = {}

    def read(self, file: Any, member: tarfile.TarInfo, name: str) -> None:
        base, *fields = name.rpartition("/")[2].lower().split(".")
        is_named = not LABEL_WORDS.isdisjoint((base, *fields))
        is_json = fields[-1:] == ["json"]
        if not fields or not (is_named or is_json or fields[-1] == "txt"):
            self.unread.setdefault(f".{fields[-1]}" if fields else base)
            return
        file.seek(member.offset_data)
        if fields[-1] == "npy":
            label = _parse_array(file.read(member.size))
            self.unread.setdefault(".npy")
        elif is_json:
            label, keys = _parse_json(file.read(member.size), is_named)
            self.unread.setdefault(f".json{keys}")
        else:
            label = _parse_text(file.read(min(member.size, MAX_LABEL_BYTES + 1)))
            self.unread.setdefault(f".{fields[-1]}")
        if label is not None:
            self.sources[1 if is_json else 0 if is_named else 2].add(name, label)

    def labels_of(self, names: list[str]) -> tuple[list[ClassKey | None], bool]:
        """Return the label of each image, and whether all are texts."""
        by_file, by_json, by_text = self.sources
        labels = [
            other if label is None else label
            for label, other in zip(
                by_file.of_images(names), by_json.of_images(names), strict=True
            )
        ]
        if any(label is not None for label in labels):
            return labels, False
        return by_text.of_images(names), True


class Labels:
    """Collect labels of one kind by the names that they may belong to, in order."""

    def __init__(self) -> None:
        self.by_stem: dict[str, list[ClassKey]] = {}
        self.by_key: dict[str, list[tuple[str, ClassKey]]] = {}

    def add(self, name: str, label: ClassKey) -> None:
        stem, key = name.rpartition(".")[0], split_key(name)[0]
        self.by_stem.setdefault(stem, []).append(label)
        self.by_key.setdefault(key, []).append((stem, label))
        # 0001/class.txt is the label of 0001/image.jpg
        folder, slash, base = key.rpartition("/")
        if slash and base.lower() in LABEL_WORDS:
            self.by_key.setdefault(folder + slash, []).append((stem, label))

    def of_images(self, names: list[str]) -> list[ClassKey | None]:
        """Return the label of each image, or None.

        Where a name repeats, as when keys start over, the k-th image has the
        k-th label of that name.
        """
        if not self.by_stem:
            return [None] * len(names)
        counts, turns = Counter(names), Counter[str]()
        stems = {name.rpartition(".")[0] for name in names}
        labels: list[ClassKey | None] = []
        for name in names:
            found = self._find(name, stems)
            if len(found) == counts[name]:
                labels.append(found[turns[name]])
            else:
                # a file that was appended to the tar again replaces the earlier one
                labels.append(found[-1] if found and counts[name] == 1 else None)
            turns[name] += 1
        return labels

    def _find(self, name: str, stems: set[str]) -> list[ClassKey]:
        stem, (key, _) = name.rpartition(".")[0], split_key(name)
        if stem in self.by_stem:
            return self.by_stem[stem]
        for each in (key, f"{key.rpartition('/')[0]}/"):
            # leaf.0.cls is the label of leaf.0.jpg, and of no other leaf
            found = [v for other, v in self.by_key.get(each, ()) if other not in stems]
            if found:
                return found
        return []


def _parse_array(content: bytes) -> ClassKey | None:
    """Return the whole number that an .npy file holds alone."""
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError):
        return None
    is_number = array.size == 1 and array.dtype.kind in "iu"
    return int(array.flat[0]) if is_number else None


def _parse_text(content: bytes) -> ClassKey | None:
    """Return a short text of one line."""
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return None
    is_label = text and len(content) <= MAX_LABEL_BYTES and len(text.splitlines()) == 1
    return text if is_label else None


def _parse_json(content: bytes, is_named: bool) -> tuple[ClassKey | None, str]:
    """Return the label in a JSON file, and its keys in words.

    is_named: the file is called label.json, or so: it may hold the label alone.
    """
    try:
        value = json.loads(content)
    except ValueError:
        return None, ""
    keys = ""
    if isinstance(value, dict):
        keys = f" ({', '.join(list(value)[:MAX_KEYS])})"
        key = find_column(value, LABEL_COLUMNS)
        if key is None and is_named:
            return label_value(value), keys
        return None if key is None else label_value(value[key]), keys
    return label_value(value) if is_named else None, keys


def label_value(value: Any) -> ClassKey | None:
    """Return a label that is a number or a word, or an object that holds its name."""
    if isinstance(value, dict):
        key = find_column(value, NAME_KEYS)
        return None if key is None else label_value(value[key])
    if isinstance(value, float):
        # NaN stands for a label that is missing
        return None if value != value else str(value)
    if isinstance(value, str):
        return value.strip() or None
    return value if isinstance(value, int) else None
