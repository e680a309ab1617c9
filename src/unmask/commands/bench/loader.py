"""Measure what loading images costs: each part, each way to read, and whole loaders."""

import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from unmask.commands.bench.contestants.ours import build_ours, set_up_device
from unmask.commands.bench.loader_parts import FirstRead, read_first_time, time_parts
from unmask.commands.bench.measure import Contestant, device_clock, time_in_turn
from unmask.commands.bench.reading_paths import (
    AUGMENTATION,
    NUM_SMALL,
    file_contestants,
    memory_contestants,
)
from unmask.commands.bench.step_worker import draw_batch, make_step
from unmask.commands.bench.whole_loaders import time_loaders
from unmask.config.data import Container, Data, default_patch_size
from unmask.data.images.pillow import PILLOW_MODES
from unmask.data.loading.batch import ImageFormat
from unmask.data.loading.folders import StoredImages
from unmask.data.loading.in_memory import InMemory
from unmask.data.loading.module import LoaderSettings
from unmask.stages.plan import list_dataset
from unmask.training.build import open_splits

# images that are measured: as many as this, and not less than that
SAMPLE_SIZE = 256
MIN_IMAGES = 16
MIN_ROUNDS = 3
CPU_BATCH_SIZE = 8


class LoadingCosts(NamedTuple):
    """Hold what was measured.

    paths: CPU seconds an image in each round, by way of reading. parts: CPU seconds an
    image of each step of the fastest way. loaders: images a second by the clock.
    spread: loader processes, and threads of each.
    """

    images_description: str
    paths: dict[str, list[float]]
    parts: dict[str, float]
    loaders: dict[str, float]
    spread: tuple[int, int]
    first_read: FirstRead | None = None

    @property
    def concurrent_reads(self) -> int:
        return concurrent_reads(self.spread)


def concurrent_reads(spread: tuple[int, int]) -> int:
    """Return how many images are read at once by (processes, threads of each)."""
    processes, threads = spread
    return max(processes, 1) * threads


def measure_loading(
    split: InMemory | StoredImages,
    image_format: ImageFormat,
    settings: LoaderSettings,
    spec: dict[str, Any],
) -> LoadingCosts:
    """Measure everything about loading this split.

    Raises ValueError where there are too few images, or where the official recipe
    cannot read images of so many channels.
    """
    _check_split(split)
    # evenly spread: files that lie together were often written together
    positions = torch.linspace(0, len(split) - 1, min(SAMPLE_SIZE, len(split)))
    ids: list[int] = positions.long().tolist()
    spread = (0, 1)
    first_read = None
    if isinstance(split, StoredImages):
        spread = settings.split_cores(False)
        # before everything else: afterwards the files are in the system's cache
        first_read = read_first_time(split, ids, concurrent_reads(spread))
        ids = _check_readable(first_read)
    num_threads = torch.get_num_threads()
    # one thread: CPU seconds then are those of a core
    torch.set_num_threads(1)
    try:
        with TemporaryDirectory() as folder:
            if isinstance(split, InMemory):
                contestants = memory_contestants(split, image_format)
                parts = {}
            else:
                contestants = file_contestants(split, image_format, ids, Path(folder))
                parts = time_parts(split, image_format, AUGMENTATION, ids[:NUM_SMALL])
            paths = time_in_turn(contestants, MIN_ROUNDS, spec["seconds"])
        device = set_up_device(spec)
        loaders = time_loaders(
            split,
            image_format,
            settings,
            spec,
            ids,
            concurrent_reads(spread),
            device if device.type == "cuda" else None,
        )
    finally:
        torch.set_num_threads(num_threads)
    description = _describe_images(split, ids, first_read)
    return LoadingCosts(description, paths, parts, loaders, spread, first_read)


def _check_split(split: InMemory | StoredImages) -> None:
    if len(split) < MIN_IMAGES:
        raise ValueError(
            f"data.root holds {len(split)} training images; at least {MIN_IMAGES} are"
            " needed to measure"
        )
    if isinstance(split, StoredImages) and split.channels not in PILLOW_MODES:
        raise ValueError(
            f"data.channels={split.channels}: the official recipe reads images of 1, 3"
            " or 4 channels only"
        )


def _check_readable(first_read: FirstRead) -> list[int]:
    """Return the ids that can be read; raise ValueError where they are too few."""
    ids = first_read.readable_ids
    bad_images = first_read.bad_images
    if len(ids) < MIN_IMAGES:
        raise ValueError(
            f"{len(bad_images)} of {len(ids) + len(bad_images)} images cannot be read;"
            f" {bad_images[0]}"
        )
    return ids


def _describe_images(
    split: InMemory | StoredImages, ids: list[int], first_read: FirstRead | None
) -> str:
    if isinstance(split, InMemory):
        height, width = split.images_NCHW.shape[2:]
        return f"{len(ids)} of {len(split)} images of {height} x {width} in memory"
    assert first_read is not None
    pixels = []
    for i in ids[:NUM_SMALL]:
        height, width = split.read_header(i).size
        pixels.append(height * width)
    return (
        f"{len(ids)} of {len(split)} files, {first_read.mean_bytes / 1000:.0f} kB and"
        f" {statistics.mean(pixels) / 1e6:.2f} megapixels on average"
    )


def model_images_per_second(spec: dict[str, Any], data: Data) -> float | None:
    """Return how many images a second the model trains on, of three steps.

    None for images that are not square, which the benchmark's model does not take.
    """
    side = data.image_size[0]
    if data.image_size != (side, side):
        return None
    device = set_up_device(spec)
    patch = data.patch_size or default_patch_size(
        data.image_size, spec["model"]["patch_size_at_224"]
    )
    # on a CPU a step takes as many times longer as it has images: a few are enough
    is_gpu = device.type == "cuda"
    batch_size = spec["batch"] if is_gpu else min(spec["batch"], CPU_BATCH_SIZE)
    spec = spec | {"image_size": side, "patch_size": patch, "channels": data.channels}
    built = build_ours(spec)
    built.model.to(device)
    step = make_step(built, "32-true")
    batch = draw_batch(spec, batch_size, device)
    steps = {"unmask": Contestant(lambda _: step(*batch))}
    seconds = time_in_turn(steps, 3, warm_up=2, clock=device_clock(device))["unmask"]
    return batch_size / statistics.median(seconds)


def training_images(data: Data, container: Container) -> InMemory | StoredImages:
    """Open the training split as a run would.

    Raises ConfigError where there are no images.
    """
    return open_splits(data, list_dataset(data, container))[0]
