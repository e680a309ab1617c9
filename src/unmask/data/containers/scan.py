"""Scan of all shards of a root, in parallel, into the contents of the set."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console
from rich.progress import Progress

from unmask.data.containers.contents import Contents, join_shards
from unmask.data.containers.naming import add_split
from unmask.data.containers.roots import Root, Shard
from unmask.data.containers.scan_tar import ScannedShard
from unmask.distributed.processes import available_cores

# Fewer shards are scanned before a bar could be read.
MIN_SHARDS_WITH_BAR = 9


def scan_shards(
    scan: Callable[..., ScannedShard], root: Root, shards: list[Shard]
) -> Contents:
    """Scan all shards by `scan(file, name)` in threads.

    What takes long in a Parquet file does not hold Python's lock.
    """

    def scan_shard(shard: Shard) -> Contents:
        with root.open(shard.name) as file:
            entries, classes = scan(file, f"{root}/{shard.name}")
        names = [add_split(entry.name, shard.name) for entry in entries]
        numbers = [entry[1:] for entry in entries]
        return Contents.of_shard(shard, names, numbers, classes)

    bar = Progress(
        console=Console(stderr=True),
        transient=True,
        disable=len(shards) < MIN_SHARDS_WITH_BAR,
    )
    with ThreadPoolExecutor(available_cores()) as pool, bar:
        scanned = pool.map(scan_shard, shards)
        parts = list(bar.track(scanned, len(shards), description=f"listing {root}"))
    return join_shards(parts)
