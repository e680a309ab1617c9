"""Compare containers that hold the same images:

    python -m unmask.commands.bench.containers folder=... webdataset=... images=500

Times are CPU seconds of this process, so that others on the machine do not count. The
files should be in the system's cache already.
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

from unmask.data.augment.crops import Augmentation
from unmask.data.loading.batch import ImageFormat
from unmask.data.loading.folders import StoredImages, read_stored, splits_from_listing
from unmask.data.loading.views import Views
from unmask.data.sources import list_source

ROUNDS = 5
BATCH_SIZE = 50
IMAGE_FORMAT = ImageFormat((224, 224), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
# does something with the images at these indices
Work = Callable[[list[int]], object]


def open_splits(arguments: list[str]) -> dict[str, StoredImages]:
    """Open the training split of each kind=folder, by the argument."""
    splits = {}
    for argument in arguments:
        kind, _, folder = argument.partition("=")
        split, _ = splits_from_listing(
            # 0.1: the share held out where the folder has no val/
            list_source("image_folder", folder, 0.1, kind),
            3,
            IMAGE_FORMAT.shape,
            in_memory=False,
        )
        assert isinstance(split, StoredImages)
        splits[argument] = split
    return splits


def images_per_second(
    works: dict[str, Work], order: list[int]
) -> dict[str, list[float]]:
    """Return the pace of each contestant in each round.

    They take turns; a first round warms up and does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS + 1):
        for name, work in works.items():
            # CPU time of all threads: decoding may use several
            start = time.process_time()
            work(order)
            seconds[name].append(time.process_time() - start)
    return {
        name: [len(order) / round_seconds for round_seconds in rounds[1:]]
        for name, rounds in seconds.items()
    }


def cropping(split: StoredImages) -> Work:
    """Return what reads, decodes and crops images in batches."""
    augmentation = Augmentation("random", flip=True)
    views = Views(split, IMAGE_FORMAT, augmentation, 0)

    def load_batches(order: list[int]) -> None:
        for start in range(0, len(order), BATCH_SIZE):
            batch = order[start : start + BATCH_SIZE]
            views.__getitems__([(0, i) for i in batch])

    return load_batches


def reading(split: StoredImages) -> Work:
    """Return what reads the encoded images and does nothing with them."""
    return lambda order: [split.store.read(i) for i in order]


def pixel_hash(split: StoredImages, order: list[int]) -> str:
    """Return a digest that is the same for containers with the same pixels."""
    digest = hashlib.sha256()
    for i in order:
        digest.update(read_stored(split, i).numpy().tobytes())
    return digest.hexdigest()[:16]


def main(arguments: list[str]) -> None:
    """Print a table with a row for each container: one thread, a random order."""
    torch.set_num_threads(1)
    limits = [
        int(argument.partition("=")[2])
        for argument in arguments
        if argument.startswith("images=")
    ]
    splits = open_splits(
        [argument for argument in arguments if not argument.startswith("images=")]
    )
    smallest = min(len(split) for split in splits.values())
    generator = torch.Generator().manual_seed(0)
    # the same random order for all: sequential reads would flatter tar files
    order = torch.randperm(smallest, generator=generator).tolist()
    order = order[: limits[0] if limits else None]
    reads = images_per_second(
        {name: reading(split) for name, split in splits.items()}, order
    )
    crops = images_per_second(
        {name: cropping(split) for name, split in splits.items()}, order
    )
    first = next(iter(splits))
    table = Table("source", "reads/s", "crops/s", "of the first's", "hash of pixels")
    for name, split in splits.items():
        # round by round: what else the machine does changes more slowly than that
        ratios = [a / b for a, b in zip(crops[name], crops[first], strict=True)]
        table.add_row(
            f"{name.partition('=')[0]} ({Path(name).name})",
            f"{statistics.median(reads[name]):,.0f}",
            f"{statistics.median(crops[name]):,.1f}",
            f"{statistics.median(ratios):.3f}",
            pixel_hash(split, order),
        )
    Console().print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
