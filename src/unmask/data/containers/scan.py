"""Scan of all shards of a root, in parallel, into the contents of the set."""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64
from rich.console import Console
from rich.progress import Progress

from unmask.data.containers.contents import Contents
from unmask.data.containers.naming import add_split
from unmask.data.containers.roots import Root, Shard
from unmask.data.containers.scan_tar import ScannedShard
from unmask.data.listing.names import Names
from unmask.distributed.processes import available_cores

# Fewer shards are scanned before a bar could be read.
MIN_SHARDS_WITH_BAR = 9


class ShardColumns(NamedTuple):
    """Hold the images of one shard in little memory."""

    names: Names
    numbers: Int64[np.ndarray, "N 3"]  # label, size, offset
    classes: tuple[str, ...]


def scan_shards(
    scan: Callable[..., ScannedShard], root: Root, shards: list[Shard]
) -> Contents:
    """Scan all shards by `scan(file, name)` in threads.

    What takes long in a Parquet file does not hold Python's lock.
    """

    def scan_shard(shard: Shard) -> ShardColumns:
        with root.open(shard.name) as file:
            return to_columns(scan(file, f"{root}/{shard.name}"), shard.name)

    bar = Progress(
        console=Console(stderr=True),
        transient=True,
        disable=len(shards) < MIN_SHARDS_WITH_BAR,
    )
    with ThreadPoolExecutor(available_cores()) as pool, bar:
        scanned = pool.map(scan_shard, shards)
        columns = list(bar.track(scanned, len(shards), description=f"listing {root}"))
    return merge_columns(columns, shards)


def to_columns(scanned: ScannedShard, shard: str) -> ShardColumns:
    """Pack a scanned shard into arrays, and put the split before each name."""
    numbers = [entry[1:] for entry in scanned.entries]
    return ShardColumns(
        Names(add_split(entry.name, shard) for entry in scanned.entries),
        # the shape is needed where a shard has no images
        np.array(numbers, dtype=np.int64).reshape(-1, 3),
        scanned.classes,
    )


def merge_columns(columns: list[ShardColumns], shards: list[Shard]) -> Contents:
    """Join the columns of all shards, sorted by name."""
    labels, sizes, offsets = np.concatenate([each.numbers for each in columns]).T
    counts = [len(each.names) for each in columns]
    names = Names(itertools.chain.from_iterable(each.names for each in columns))
    # the Hub repeats the names of classes in each shard
    classes = next((each.classes for each in columns if each.classes), ())
    return Contents(
        names,
        labels.astype(np.int32),
        sizes,
        np.repeat(np.arange(len(shards), dtype=np.int32), counts),
        offsets,
        tuple(shards),
        classes,
    ).sorted_by_name()
