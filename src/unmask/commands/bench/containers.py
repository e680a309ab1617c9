"""The same images from containers, in turn:

    python -m unmask.commands.bench.containers folder=... webdataset=... images=500

Seconds are the process's own: a machine that others share tells nothing else. So files should be warm in memory.
"""

import hashlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from unmask.data.augment.crops import Augment
from unmask.data.loading.batch import Format
from unmask.data.loading.folders import Files, folder_splits, stored
from unmask.data.loading.views import Views
from unmask.data.sources import list_source

ROUNDS, BATCH = 5, 50
FORM = Format((224, 224), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def splits(typed: list[str]) -> dict[str, Files]:
    """The training images of each place."""
    found = {}
    for argument in typed:
        kind, _, place = argument.partition("=")
        split, _ = folder_splits(
            list_source("image_folder", place, 0.1, kind),
            3,
            FORM.shape,
            in_memory=False,
        )
        assert isinstance(split, Files)
        found[argument] = split
    return found


def timed(
    works: dict[str, Callable[[list[int]], object]], order: list[int]
) -> dict[str, list[float]]:
    """Images a second of each in each round, in turn, after one round that warms."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS + 1):
        for name, work in works.items():
            start = time.process_time()
            work(order)
            seconds[name].append(time.process_time() - start)
    return {
        name: [len(order) / each for each in rounds[1:]]
        for name, rounds in seconds.items()
    }


def viewed(split: Files) -> Callable[[list[int]], object]:
    views = Views(split, FORM, Augment("random", flip=True), 0)
    return lambda order: [
        views.__getitems__([(0, i) for i in order[k : k + BATCH]])
        for k in range(0, len(order), BATCH)
    ]


def reading(split: Files) -> Callable[[list[int]], object]:
    return lambda order: [split.store.read(i) for i in order]


def pixel_hash(split: Files, order: list[int]) -> str:
    whole = hashlib.sha256()
    for i in order:
        whole.update(stored(split, i).numpy().tobytes())
    return whole.hexdigest()[:16]


def main(typed: list[str]) -> None:
    """One thread; images in a random order, warm in memory."""
    torch.set_num_threads(1)
    counts = [
        int(argument.partition("=")[2])
        for argument in typed
        if argument.startswith("images=")
    ]
    found = splits(
        [argument for argument in typed if not argument.startswith("images=")]
    )
    order = torch.randperm(
        min(map(len, found.values())), generator=torch.Generator().manual_seed(0)
    ).tolist()
    order = order[: counts[0] if counts else None]
    read = timed({name: reading(split) for name, split in found.items()}, order)
    whole = timed({name: viewed(split) for name, split in found.items()}, order)
    first = next(iter(found))
    table = Table("source", "reads/s", "crops/s", "of the first's", "hash of pixels")
    for name, split in found.items():
        share = statistics.median(
            a / b for a, b in zip(whole[name], whole[first], strict=True)
        )
        table.add_row(
            f"{name.partition('=')[0]} ({Path(name).name})",
            f"{statistics.median(read[name]):,.0f}",
            f"{statistics.median(whole[name]):,.1f}",
            f"{share:.3f}",
            pixel_hash(split, order),
        )
    Console().print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
