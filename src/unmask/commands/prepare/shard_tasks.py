"""Tasks of a conversion: which images each shard holds, planned before any is written.

So a conversion that was killed can continue.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Int64

from unmask.commands.prepare.transcode import Transcode
from unmask.data.images.unreadable import read_content
from unmask.data.listing.catalogue import Catalogue
from unmask.data.listing.names import folder_slice, name_at

# Names of shards, by format.
SHARD_NAMES = {
    "webdataset": "{split}-{number:06d}.tar",
    "parquet": "data/{split}-{number:05d}-of-{count:05d}.parquet",
    "litdata": "{folder}chunk-0-{number}.bin",
    "raw": "{split}-{number:06d}.pixels",
    "folder": "{split}-{number:06d}",
}

# Sizes of shards in mebibytes, by format.
SHARD_MB = {
    "webdataset": 256,
    "parquet": 256,
    "litdata": 64,
    "raw": 1024,
    "folder": 256,
}

# The word for a split in names of shards whose images are in no split.
NO_SPLIT = "images"

# Images that are transcoded beforehand to estimate how large the rest becomes.
NUM_PROBED = 48


@dataclass(frozen=True)
class ShardTask:
    """Name one shard below the target, and its images by index into the catalogue."""

    name: str
    indices: Int[np.ndarray, "M"]


def plan_shards(
    catalogue: Catalogue, sizes: Int64[np.ndarray, "N"], kind: str, shard_bytes: int
) -> list[ShardTask]:
    """Divide the images into shards of about `shard_bytes`, in the order of names.

    Each shard holds images of one split. sizes: bytes in the target.
    """
    tasks = []
    for split, part in _split_slices(catalogue):
        ends = np.cumsum(sizes[part])
        # an image belongs to the shard in which its first byte falls
        shard_numbers = (ends - sizes[part]) // shard_bytes
        indices = np.arange(part.start, part.stop)
        borders = np.flatnonzero(np.diff(shard_numbers)) + 1
        groups = np.split(indices, borders) if len(indices) else []
        for number, group in enumerate(groups):
            name = SHARD_NAMES[kind].format(
                split=split,
                folder="" if split == NO_SPLIT else f"{split}/",
                number=number,
                count=len(groups),
            )
            tasks.append(ShardTask(name, group))
    return tasks


def _split_slices(catalogue: Catalogue) -> Iterator[tuple[str, slice]]:
    """Yield all splits, and the images between or beside them."""
    start = 0
    for split in sorted(catalogue.splits):
        part = folder_slice(catalogue.names, split)
        if part.start > start:
            yield NO_SPLIT, slice(start, part.start)
        yield split, part
        start = part.stop
    if start < len(catalogue.names):
        yield NO_SPLIT, slice(start, len(catalogue.names))


def estimate_sizes(
    catalogue: Catalogue, transcode: Transcode
) -> Int64[np.ndarray, "N"]:
    """Estimate the bytes of each image in the target, by transcoding some of them.

    Exact where bytes are copied.
    """
    if transcode.keeps_bytes:
        return catalogue.sizes
    count = len(catalogue.names)
    probed = np.unique(np.linspace(0, count - 1, NUM_PROBED).astype(int))
    before = 0
    after = 0
    for i in probed.tolist():
        size = int(catalogue.sizes[i])
        before += max(1, size)
        try:
            name = name_at(catalogue.names, i)
            content = transcode(read_content(catalogue.store, i), name)
            after += len(content) if isinstance(content, bytes) else content.nbytes
        # a bad image is reported when it is converted
        except Exception:
            after += size
    if transcode.channels is not None:
        # raw pixels do not follow the size of the file: each gets the mean
        mean = max(1, after // len(probed))
        return np.full(count, mean, dtype=np.int64)
    return np.maximum(1, (catalogue.sizes * (after / before)).astype(np.int64))


def hash_plan(
    catalogue: Catalogue, transcode: Transcode, kind: str, tasks: list[ShardTask]
) -> str:
    """Hash what a conversion must agree on with one that it continues.

    The images with their labels, the shards, and what is made of the images.
    """
    # The text of version 0.1: with another, its unfinished targets would be refused.
    change = (
        f"Change(short_side={transcode.short_side}, quality={transcode.quality},"
        f" channels={transcode.channels})"
    )
    shards = [(task.name, len(task.indices)) for task in tasks]
    digest = hashlib.sha256(f"{kind} {change} {shards}\n".encode())
    ends = [0]
    for name in catalogue.names:
        digest.update(name.as_py())
        ends.append(ends[-1] + len(name.as_py()))
    for numbers in (np.array(ends), catalogue.sizes):
        digest.update(np.ascontiguousarray(numbers).data)
    if catalogue.labels is not None:
        digest.update(f"{catalogue.classes}".encode())
        digest.update(np.ascontiguousarray(catalogue.labels).data)
    return digest.hexdigest()[:16]
