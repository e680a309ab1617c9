"""Compare containers that hold the same images:

    python -m unmask.commands.bench.containers folder=... webdataset=... images=500

Times are CPU seconds of this process, so that others on the machine do not count. The
files should be in the system's cache already.
"""

import hashlib
import statistics
import sys
from pathlib import Path

import torch
from rich.console import Console

from unmask.commands.bench.measure import (
    Contestant,
    make_table,
    median_ratio,
    time_in_turn,
)
from unmask.data.augment.crops import Augmentation
from unmask.data.loading.batch import ImageFormat
from unmask.data.loading.folders import StoredImages, read_stored, splits_from_listing
from unmask.data.loading.views import Views
from unmask.data.sources import list_source

ROUNDS = 5
BATCH_SIZE = 50
IMAGE_FORMAT = ImageFormat((224, 224), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


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


def cropping(split: StoredImages, order: list[int]) -> Contestant:
    """Read, decode and crop images in batches."""
    augmentation = Augmentation("random", flip=True)
    views = Views(split, IMAGE_FORMAT, augmentation, 0)

    def load_batches(turn: int) -> None:
        for start in range(0, len(order), BATCH_SIZE):
            views.batch(0, order[start : start + BATCH_SIZE])

    return Contestant(load_batches, len(order))


def reading(split: StoredImages, order: list[int]) -> Contestant:
    """Read the encoded images and do nothing with them."""
    return Contestant(lambda _: [split.store.read(i) for i in order], len(order))


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
    reads, crops = (
        time_in_turn(
            {name: make(split, order) for name, split in splits.items()}, ROUNDS
        )
        for make in (reading, cropping)
    )
    first = next(iter(splits))
    rows = [
        (
            f"{name.partition('=')[0]} ({Path(name).name})",
            f"{1 / statistics.median(reads[name]):,.0f}",
            f"{1 / statistics.median(crops[name]):,.1f}",
            f"{median_ratio(crops[first], crops[name]):.3f}",
            pixel_hash(split, order),
        )
        for name, split in splits.items()
    ]
    header = ("source", "reads/s", "crops/s", "of the first's", "hash of pixels")
    Console().print(make_table(None, header, rows))


if __name__ == "__main__":
    main(sys.argv[1:])
