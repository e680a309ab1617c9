"""Scan of all shards of a root, in parallel, into the contents of the set."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from rich.console import Console
from rich.progress import Progress

from unmask.data.containers.contents import Contents, join_shards
from unmask.data.containers.labels import ShardLabels, join_labels, pack_labels
from unmask.data.containers.naming import add_split
from unmask.data.containers.roots import Root, Shard
from unmask.data.containers.scan_tar import ScannedShard
from unmask.data.containers.shard_stores import ShardStore
from unmask.data.listing.conventions import is_hidden
from unmask.distributed.processes import available_cores

# Fewer shards are scanned before a bar could be read.
MIN_SHARDS_WITH_BAR = 9


def scan_shards(
    scan: Callable[..., ScannedShard], root: Root, shards: list[Shard]
) -> Contents:
    """Scan all shards by `scan(file, name)` in threads.

    What takes long in a Parquet file does not hold Python's lock. Raises ValueError
    where a shard is damaged, is a copy of another, or has labels without names.
    """

    def scan_shard(shard: Shard) -> tuple[Contents, ShardLabels]:
        with root.open(shard.name) as file:
            scanned = scan(file, f"{root}/{shard.name}")
        entries = [entry for entry in scanned.entries if not is_hidden(entry.name)]
        labels = pack_labels([entry.label for entry in entries], scanned)
        names = [add_split(entry.name, shard.name) for entry in entries]
        numbers = [
            (label, entry.size, entry.offset)
            for label, entry in zip(labels.ids_N.tolist(), entries, strict=True)
        ]
        contents = Contents.of_shard(shard, names, numbers)
        pixels = [entry.pixels for entry in entries if entry.pixels]
        if not pixels:
            return contents, labels
        table = np.array(pixels, dtype=np.int32)
        return replace(contents, shapes=table[:, :3], dtypes=table[:, 3]), labels

    bar = Progress(
        console=Console(stderr=True),
        transient=True,
        disable=len(shards) < MIN_SHARDS_WITH_BAR,
    )
    with ThreadPoolExecutor(available_cores()) as pool, bar:
        scanned = pool.map(scan_shard, shards)
        parts = list(bar.track(scanned, len(shards), description=f"listing {root}"))
    if (
        len({contents.shapes is None for contents, _ in parts if len(contents.names)})
        > 1
    ):
        raise ValueError(f"data.root={root} holds files and pixels; keep one of both")
    labels = join_labels([labels for _, labels in parts], root)
    ends = np.cumsum([len(contents.names) for contents, _ in parts])
    relabelled = [
        replace(contents, labels=part, classes=labels.classes, notes=labels.notes)
        for (contents, _), part in zip(
            parts, np.split(labels.labels_N, ends[:-1]), strict=True
        )
    ]
    _refuse_copies(root, relabelled)
    return join_shards(relabelled)


def _refuse_copies(root: Root, parts: list[Contents]) -> None:
    """Raise ValueError where a shard holds the images of another one."""
    seen: dict[bytes, list[Contents]] = {}
    for part in parts:
        if not len(part.names):
            continue
        alike = seen.setdefault(part.sizes.tobytes(), [])
        for other in alike:
            if part.names.equals(other.names) and _have_same_ends(root, part, other):
                raise ValueError(
                    f"{root}/{part.shards[0].name} holds the same images as"
                    f" {other.shards[0].name}; remove one of the two"
                )
        alike.append(part)


def _have_same_ends(root: Root, part: Contents, other: Contents) -> bool:
    """Compare the first and the last image of two shards."""
    stores = ShardStore(root, part), ShardStore(root, other)
    try:
        return all(
            stores[0].read_bytes(i) == stores[1].read_bytes(i)
            for i in (0, len(part.names) - 1)
        )
    # an image that cannot be read is reported when it is needed
    except OSError:
        return False
