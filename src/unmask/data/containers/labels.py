"""Labels beside images in shards: numbers, words, and what is neither.

Numbers are classes in their order, words in that of the alphabet; where shards store
names of numbers, these are the classes.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from unmask.config.datasets import ClassKey
from unmask.data.containers.scan_tar import ScannedShard
from unmask.data.listing.conventions import class_keys, sort_classes

# Texts are classes only if there are, on average, this many images of each.
MIN_IMAGES_PER_TEXT = 2
SHOWN = 5  # names in a message


class ShardLabels(NamedTuple):
    """Hold the labels of a shard's images as indices into their distinct values.

    ids_N: -1 where there is none. classes: names of the labels 0, 1, ..., where the
    shard stores them. are_texts: they may be captions. unread: what else lies beside
    the images, in words. masks: kinds of pictures that are no images.
    """

    ids_N: Int32[np.ndarray, "N"]
    values: tuple[ClassKey, ...]
    classes: tuple[str, ...] = ()
    are_texts: bool = False
    unread: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()


class SetLabels(NamedTuple):
    """Hold the labels of all shards, in order, as indices into the classes, or -1."""

    labels_N: Int32[np.ndarray, "N"]
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def pack_labels(
    labels: Sequence[ClassKey | None], scanned: ScannedShard
) -> ShardLabels:
    """Replace labels by indices; numbers below zero mean that there is none."""
    ids: dict[ClassKey, int] = {}
    numbers = []
    for label in labels:
        is_negative = label == "-1" or (isinstance(label, int) and label < 0)
        if label is None or is_negative:
            numbers.append(-1)
        else:
            numbers.append(ids.setdefault(label, len(ids)))
    ids_N = np.array(numbers, dtype=np.int32)
    return ShardLabels(
        ids_N,
        tuple(ids),
        scanned.classes,
        scanned.are_texts,
        scanned.unread,
        scanned.masks,
    )


def join_labels(shards: Sequence[ShardLabels], root: object) -> SetLabels:
    """Find the classes of all shards together.

    Raises ValueError for a number that has no name among the names of classes.
    """
    notes = tuple(_mask_notes(shards))
    if any(shard.values and not shard.are_texts for shard in shards):
        # where others have labels, a text is a caption
        shards = [_unlabelled(each) if each.are_texts else each for each in shards]
    elif not _texts_are_classes(shards):
        notes = (*notes, *_unread_notes(shards))
        shards = [_unlabelled(each) for each in shards]
    # the Hub repeats the names in each shard; in some they may be missing
    names = {shard.classes for shard in shards if shard.classes and shard.values}
    if len(names) == 1:
        (classes,) = names
        indices = [
            [_number_of(value, classes, root) for value in shard.values]
            for shard in shards
        ]
    else:
        words = [
            [
                shard.classes[_number_of(value, shard.classes, root)]
                if shard.classes
                else value
                for value in shard.values
            ]
            for shard in shards
        ]
        keys = class_keys({word for each in words for word in each})
        ordered = sort_classes(set(keys.values()))
        index = {key: i for i, key in enumerate(ordered)}
        classes = tuple(map(str, ordered))
        indices = [[index[keys[word]] for word in each] for each in words]
    # the last entry is what the index -1 reads
    tables = [np.array([*each, -1], np.int32) for each in indices]
    labels = [table[shard.ids_N] for table, shard in zip(tables, shards, strict=True)]
    return SetLabels(np.concatenate(labels), classes, notes)


def _unlabelled(shard: ShardLabels) -> ShardLabels:
    return shard._replace(ids_N=np.full_like(shard.ids_N, -1), values=())


def _number_of(label: ClassKey, names: tuple[str, ...], root: object) -> int:
    """Return the number of a class, which is stored as the number or as its name."""
    if isinstance(label, int) and label < len(names):
        return label
    if label in names:
        return names.index(str(label))
    raise ValueError(
        f"data.root={root} has the label {label}, but names {len(names)} classes:"
        f" {', '.join(names[:SHOWN])} ...; make the shards again with all names"
    )


def _texts_are_classes(shards: Sequence[ShardLabels]) -> bool:
    """Say whether texts repeat as classes do, and captions do not."""
    distinct, count = _count_texts(shards)
    return 0 < distinct * MIN_IMAGES_PER_TEXT <= count


def _count_texts(shards: Sequence[ShardLabels]) -> tuple[int, int]:
    distinct = {value for shard in shards for value in shard.values}
    return len(distinct), sum(int((shard.ids_N >= 0).sum()) for shard in shards)


def _mask_notes(shards: Sequence[ShardLabels]) -> Iterator[str]:
    masks = dict.fromkeys(each for shard in shards for each in shard.masks)
    if masks:
        yield (
            f"{', '.join([*masks][:SHOWN])} beside an image are taken for its masks or"
            " labels, and for no images"
        )


def _unread_notes(shards: Sequence[ShardLabels]) -> Iterator[str]:
    """Name what lies beside the images and was not taken for labels."""
    unread = dict.fromkeys(each for shard in shards for each in shard.unread)
    if unread:
        distinct, count = _count_texts(shards)
        texts = f" ({distinct} different texts of {count})" if distinct else ""
        yield (
            "no label is read; beside the images there are"
            f" {', '.join([*unread][:SHOWN])}{texts}; labels are .cls files, a key of"
            " JSON, or a column called label, class or category"
        )
