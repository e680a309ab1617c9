"""Time whole loaders by the clock: ours as it is set, and the official recipe's."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device

from unmask.commands.bench.measure import device_clock
from unmask.commands.bench.official_recipe import OfficialDataset, official_loader
from unmask.commands.bench.reading_paths import AUGMENTATION, OFFICIAL
from unmask.data.loading.batch import Batch, ImageFormat
from unmask.data.loading.folders import StoredImages
from unmask.data.loading.in_memory import InMemory
from unmask.data.loading.module import LoaderSettings, make_loader, normalise
from unmask.data.loading.nvjpeg import MODES
from unmask.data.loading.sampler import EvalBatches
from unmask.data.loading.views import Views

OURS = "unmask"
# from this many seconds on (the key `seconds`) loaders are timed in several turns
LONG_SECONDS = 5.0


@dataclass(frozen=True)
class LoaderBench:
    """Hold what all compared loaders share.

    device: the GPU that batches have to reach, decoded and normalised. None on a CPU:
    there normalising is left out, and the table of parts shows what it takes.
    """

    image_format: ImageFormat
    ids: list[int]
    batch_size: int
    device: torch.device | None

    def our_batches(
        self, split: InMemory | StoredImages, settings: LoaderSettings
    ) -> Iterator[Batch]:
        views = Views(split, self.image_format, AUGMENTATION, 0)
        batches = make_loader(views, EvalBatches(self.ids, self.batch_size), settings)
        if self.device is None:
            yield from batches
            return
        for batch in batches:
            yield normalise(move_data_to_device(batch, self.device), self.image_format)

    def official_batches(
        self, split: StoredImages, readable_ids: list[int], workers: int
    ) -> Iterator[Any]:
        dataset = OfficialDataset(split, self.ids, readable_ids, self.image_format)
        for batch in official_loader(dataset, self.batch_size, workers):
            if self.device is None:
                yield batch
            else:
                yield move_data_to_device(batch, self.device)


def time_loaders(
    split: InMemory | StoredImages,
    image_format: ImageFormat,
    settings: LoaderSettings,
    spec: dict[str, Any],
    readable_ids: list[int],
    workers: int,
    device: torch.device | None,
) -> dict[str, float]:
    """Return the images a second of each whole loader, as the median of turns.

    The official loader gets `workers` processes: as many as our loader reads images at
    once.
    """
    is_long = spec["seconds"] >= LONG_SECONDS
    turns = 3 if is_long else 1
    # many batches: some are read ahead while the first one is waited for
    num_batches = 24 if is_long else 8
    batch_size = min(spec["batch"], len(split))
    num_ids = num_batches * batch_size
    epochs = -(-num_ids // len(split))
    ids = (list(range(len(split))) * epochs)[:num_ids]
    bench = LoaderBench(image_format, ids, batch_size, device)
    contestants: dict[str, Callable[[], Iterator[Any]]] = {
        OURS: partial(bench.our_batches, split, settings)
    }
    if isinstance(split, StoredImages):
        if device and split.channels in MODES:
            # dict.fromkeys: only once where the split is decoded by nvJPEG anyway
            contestants = {
                f"{OURS}, {mode}": partial(
                    bench.our_batches, replace(split, decode=mode), settings
                )
                for mode in dict.fromkeys((split.decode, "nvjpeg"))
            }
        contestants[OFFICIAL] = partial(
            bench.official_batches, split, readable_ids, workers
        )
    clock = device_clock(device or torch.device("cpu"))
    paces: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(turns):
        for name, make_batches in contestants.items():
            paces[name].append(_images_per_second(make_batches(), clock))
    return {name: statistics.median(turns) for name, turns in paces.items()}


def _images_per_second(batches: Iterator[Any], clock: Callable[[], float]) -> float:
    """Return the pace after the first batch, which waits for processes to start.

    NaN where there is one batch.
    """
    next(batches)
    start = clock()
    # the second field are the labels, in both loaders
    count = sum(len(batch[1]) for batch in batches)
    seconds = max(1e-9, clock() - start)
    return count / seconds if count else float("nan")
