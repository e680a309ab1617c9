"""Contents of a set of shards: where each image lies in them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int, Int32, Int64, UInt8

from unmask.data.containers.roots import Shard
from unmask.data.listing.names import Names, name_at, pack_names, unpack_names

# Fields of Contents that have an entry for each image, as `names` has.
IMAGE_COLUMNS = (
    "labels",
    "sizes",
    "shard_ids",
    "offsets",
    "digests",
    "shapes",
    "dtypes",
)


def type_code(dtype: np.dtype) -> int:
    """Return a number for a type of pixels, the same on any machine."""
    return ord(dtype.kind) * 16 + dtype.itemsize


def coded_type(code: int) -> np.dtype:
    """Return the type of that number, in this machine's byte order."""
    return np.dtype(f"{chr(code // 16)}{code % 16}")


BYTES_CODE = type_code(np.dtype(np.uint8))


@dataclass(frozen=True)
class Contents:
    """Hold the location of each image, sorted by name.

    names: relative to the root, as in a folder of the same images: train/cat/1.jpg.
    labels: -1 where none is stored with the image.
    sizes: bytes.
    shard_ids: indices into shards.
    offsets: bytes; below zero: an encoded row of a Parquet file (`parquet.py`).
    digests: sha256, where the writer of the shards stored them.
    shapes: (height, width, channels) of raw pixels.
    dtypes: `type_code` of raw pixels; None: all are bytes.
    is_prepared: src/prepare.py wrote these shards, and no others beside them.
    notes: what was found in them and not read, in sentences.
    """

    names: Names
    labels: Int32[np.ndarray, "N"]
    sizes: Int64[np.ndarray, "N"]
    shard_ids: Int32[np.ndarray, "N"]
    offsets: Int64[np.ndarray, "N"]
    shards: tuple[Shard, ...]
    classes: tuple[str, ...] = ()
    digests: UInt8[np.ndarray, "N 32"] | None = None
    shapes: Int32[np.ndarray, "N 3"] | None = None
    is_prepared: bool = False
    notes: tuple[str, ...] = ()
    dtypes: Int32[np.ndarray, "N"] | None = None

    @classmethod
    def of_shard(
        cls,
        shard: Shard,
        names: Iterable[str],
        numbers: Sequence[tuple[int, int, int]],
        classes: tuple[str, ...] = (),
    ) -> "Contents":
        """List the images of one shard; numbers: (label, size, offset) of each."""
        # the shape is needed where a shard has no images
        labels, sizes, offsets = np.array(numbers, dtype=np.int64).reshape(-1, 3).T
        ids = np.zeros(len(numbers), dtype=np.int32)
        labels = labels.astype(np.int32)
        return cls(pack_names(names), labels, sizes, ids, offsets, (shard,), classes)

    def shard_of(self, i: int) -> str:
        """Return the name of the shard that holds an image."""
        return self.shards[self.shard_ids[i]].name

    def place(self, i: int) -> str:
        """Return what messages call an image: its shard and its name."""
        return f"{self.shard_of(i)}: {name_at(self.names, i)}"

    def take(self, indices: Int[np.ndarray, "M"]) -> "Contents":
        """Copy the images at these indices, in this order."""
        columns = {
            key: getattr(self, key)[indices]
            for key in IMAGE_COLUMNS
            if getattr(self, key) is not None
        }
        return replace(self, names=self.names.take(indices), **columns)

    def sorted_by_name(self) -> "Contents":
        """Sort by name. Raises ValueError where two images have one name."""
        ordered = self.take(sort_order(self.names))
        names = ordered.names
        # sorted, so equal names are neighbours
        equal = pc.equal(names[1:], names[:-1]).to_numpy(zero_copy_only=False)
        repeated = np.flatnonzero(equal)
        if len(repeated):
            k = int(repeated[0])
            first, second = map(ordered.shard_of, (k, k + 1))
            raise ValueError(
                f"{name_at(names, k)} is in {first} and again in {second}; names must"
                " differ"
            )
        return ordered


def join_shards(parts: Sequence[Contents]) -> Contents:
    """Join the contents of one shard each, sorted by name.

    Where images share a name, the shard and the number in it become part of theirs.
    """
    columns: dict[str, Any] = {
        key: np.concatenate([getattr(part, key) for part in parts])
        for key in IMAGE_COLUMNS
        if getattr(parts[0], key) is not None
    }
    counts = [len(part.names) for part in parts]
    columns["shard_ids"] = np.repeat(np.arange(len(parts), dtype=np.int32), counts)
    return replace(
        parts[0],
        names=_distinct_names(parts),
        shards=tuple(part.shards[0] for part in parts),
        # the Hub repeats the names of classes in each shard
        classes=next((part.classes for part in parts if part.classes), ()),
        **columns,
    ).sorted_by_name()


def _distinct_names(parts: Sequence[Contents]) -> Names:
    """Return the names of all images; those that repeat tell the shard and the row.

    3.jpg of two shards, or of one, becomes train-00001-00000003-3.jpg.
    """
    names = pa.concat_arrays([part.names for part in parts])
    counts = pc.value_counts(names)
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if not len(repeated):
        return names
    is_repeated = pc.is_in(names, repeated).to_numpy(zero_copy_only=False)
    places = ((part, row) for part in parts for row in range(len(part.names)))
    return pack_names(
        _name_with_place(name, part.shards[0].name, row) if repeats else name
        for name, repeats, (part, row) in zip(
            unpack_names(names), is_repeated, places, strict=True
        )
    )


def _name_with_place(name: str, shard: str, row: int) -> str:
    folder, slash, base = name.rpartition("/")
    stem = shard.rpartition(".")[0].replace("/", "-")
    return f"{folder}{slash}{stem}-{row:08d}-{base}"


def sort_order(names: Names) -> Int64[np.ndarray, "N"]:
    """Return the indices that sort names; UTF-8 sorts as its characters do."""
    return pc.array_sort_indices(names).to_numpy().astype(np.int64)
