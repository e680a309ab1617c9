"""What reading images costs, by part and by path, beside the official recipe; and what the model would take."""

import io
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities import move_data_to_device
from PIL import Image
from torch import Tensor

from unmask.commands.bench.in_memory import Contestant, held_contestants
from unmask.commands.bench.loader_parts import (
    Sample,
    first_read,
    official_loader,
    official_view,
    parts_of,
    smaller_copies,
)
from unmask.commands.bench.step import device_of, our_step
from unmask.commands.bench.step import interleaved as interleaved_steps
from unmask.config.schema import Container, Data, chosen_patch_size
from unmask.data.augment.crops import Augment
from unmask.data.images import native, nvjpeg
from unmask.data.images.decoding import MODES, Decode, opened
from unmask.data.loading.batch import Batch, Format, normalised
from unmask.data.loading.folders import Files
from unmask.data.loading.in_memory import InMemory
from unmask.data.loading.module import Loading, loader
from unmask.data.loading.sampler import EvalBatches
from unmask.data.loading.views import Views
from unmask.stages.fingerprint import chosen_decode
from unmask.stages.plan import listed
from unmask.training.build import splits_of

# images that are measured, at least; those that are made smaller for it
SAMPLE, LEAST, SMALLER = 256, 16, 96
AUGMENT = Augment("random", (0.2, 1.0), flip=True)
BY_IMAGE = {
    "RandAugment (fine-tuning)": Augment(
        "random", (0.08, 1.0), flip=True, policy="rand-m9-mstd0.5"
    ),
    "colour jitter": Augment("random", (0.2, 1.0), flip=True, jitter=0.4),
}  # of what changes single images, which the lock of Python lets one thread do
ON_CPU = 8  # images of a step
LONG = 5.0  # seconds from which on whole loaders are timed in three turns, too
OURS, OFFICIAL = "unmask", "official recipe"


class Found(NamedTuple):
    """paths: CPU seconds an image of each round; parts: of the fastest path. loaders: images a second on the wall."""

    images: str
    paths: dict[str, list[float]]
    parts: dict[str, float]
    loaders: dict[str, float]
    spread: tuple[int, int]
    first: Sample | None = None

    @property
    def at_once(self) -> int:
        return readers(self.spread)


def readers(spread: tuple[int, int]) -> int:
    """How many images are read at a time by so many processes, of so many threads each."""
    processes, threads = spread
    return max(processes, 1) * threads


def measured(
    split: InMemory | Files, form: Format, loading: Loading, spec: dict[str, Any]
) -> Found:
    """Raises ValueError where there are too few images, or the official recipe knows none of so many channels."""
    if len(split) < LEAST:
        raise ValueError(
            f"data.root holds {len(split)} training images; at least {LEAST} are needed"
            " to measure"
        )
    if isinstance(split, Files) and split.channels not in MODES:
        raise ValueError(
            f"data.channels={split.channels}: the official recipe reads images of 1, 3"
            " or 4 channels alone"
        )
    ids = torch.linspace(0, len(split) - 1, min(SAMPLE, len(split))).long().tolist()
    spread, first = (0, 1), None
    if isinstance(split, Files):
        spread = loading.spread(False)
        first = first_read(split, ids, readers(spread))
        ids = first.ids
        if len(ids) < LEAST:
            raise ValueError(
                f"{len(first.bad)} of {len(ids) + len(first.bad)} images cannot be"
                f" read; {first.bad[0]}"
            )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # by process: what a core does
    try:
        with TemporaryDirectory() as place:
            if isinstance(split, InMemory):
                contestants, parts = _of_memory(split, form), {}
            else:
                contestants = _of_files(split, form, ids, Path(place))
                parts = parts_of(split, form, AUGMENT, ids[:SMALLER])
            paths = interleaved(contestants, spec["seconds"])
        device = device_of(spec)
        there = device if device.type == "cuda" else None
        loaders = whole_loaders(split, form, loading, spec, ids, readers(spread), there)
    finally:
        torch.set_num_threads(threads)
    return Found(_described(split, ids, first), paths, parts, loaders, spread, first)


def interleaved(
    contestants: dict[str, Contestant], seconds: float
) -> dict[str, list[float]]:
    """CPU seconds an image, in turn, until the time is over: three rounds at least, after one that warms up."""
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    began, turn = time.perf_counter(), 0
    while turn < 4 or time.perf_counter() - began < seconds:
        for name, (make, count) in contestants.items():
            start = time.process_time()
            make(turn)
            if turn:
                taken[name].append((time.process_time() - start) / count)
        turn += 1
    return taken


def _described(split: InMemory | Files, ids: list[int], first: Sample | None) -> str:
    if isinstance(split, InMemory):
        return (
            f"{len(ids)} of {len(split)} images of"
            f" {' x '.join(map(str, split.images_NCHW.shape[2:]))} in memory"
        )
    assert first is not None
    sizes = [
        opened(split.store.read(i), split.store.name(i), split.channels).size
        for i in ids[:SMALLER]
    ]
    pixels = statistics.mean(height * width for height, width in sizes) / 1e6
    return (
        f"{len(ids)} of {len(split)} files, {first.size / 1000:.0f} kB and {pixels:.2f}"
        " megapixels on average"
    )


def _of_memory(split: InMemory, form: Format) -> dict[str, Contestant]:
    found = held_contestants(split, form)
    return {OFFICIAL: found.pop("torchvision, random resized crop"), **found}


def _of_files(
    split: Files, form: Format, ids: list[int], place: Path
) -> dict[str, Contestant]:
    """Each way of making the same crops of the same files, to uint8; and of smaller copies of some of them."""
    official, decoder = official_view(form), native.region()
    small = ids[:SMALLER]
    files, raw = smaller_copies(split, min(form.shape), small, place)

    def whole(turn: int) -> Tensor:
        return torch.stack([official(_opened(split, i)) for i in ids])

    contestants: dict[str, Contestant] = {OFFICIAL: (whole, len(ids))}
    ways: list[tuple[Decode, str, native.Region | None]] = [
        ("reference", "reference", None)
    ]
    if decoder:
        ways += [
            ("fast", "fast, native decoder", decoder),
            ("scaled", "scaled, native decoder", decoder),
        ]
    ways += [("fast", "fast, simplejpeg", None), ("scaled", "scaled, simplejpeg", None)]
    for decode, name, by in ways:
        contestants[name] = (
            _reading(replace(split, decode=decode), form, ids, by),
            len(ids),
        )
    if split.channels in (1, 3):
        for name, augment in BY_IMAGE.items():
            contestants[f"fast, and {name}"] = (
                _reading(split, form, small, decoder, augment),
                len(small),
            )
    everywhere = list(range(len(small)))
    contestants["fast, JPEGs stored at 8/7 of the size"] = (
        _reading(files, form, everywhere, decoder),
        len(small),
    )
    contestants["pixels stored at 8/7 of the size"] = (
        _reading(raw, form, everywhere, decoder),
        len(small),
    )
    return contestants


def _reading(
    split: Files,
    form: Format,
    ids: list[int],
    decoder: native.Region | None,
    augment: Augment = AUGMENT,
) -> Callable[[int], Any]:
    views = Views(split, form, augment, 0)

    def read(turn: int) -> None:
        found, native.region = native.region, lambda: decoder  # type: ignore[assignment]
        try:
            for start in range(0, len(ids), 64):
                views.__getitems__([(turn, i) for i in ids[start : start + 64]])
        finally:
            native.region = found

    return read


def _opened(split: Files, i: int) -> Image.Image:
    content = split.store.read(i)
    if not isinstance(content, bytes):
        return Image.fromarray(content)
    return Image.open(io.BytesIO(content)).convert(MODES[split.channels])


def whole_loaders(
    split: InMemory | Files,
    form: Format,
    loading: Loading,
    spec: dict[str, Any],
    readable: list[int],
    workers: int,
    there: torch.device | None,
) -> dict[str, float]:
    """Images a second, by the clock, of whole loaders: ours as it is set, the official one on as many processes.

    Medians of turns: as many batches as hide that some are read ahead while the first is waited for.
    there: the GPU that pixels have to reach, decoded and normalised. None, on a CPU: that is left out, for the table
    of steps tells of it.
    """
    batch = min(spec["batch"], len(split))
    turns, batches = (3, 24) if spec["seconds"] >= LONG else (1, 8)
    ids = (list(range(len(split))) * -(-batches * batch // len(split)))[
        : batches * batch
    ]

    def ours(split: InMemory | Files) -> Iterator[Batch]:
        batches = loader(
            Views(split, form, AUGMENT, 0), EvalBatches(ids, batch), loading
        )
        yield from (
            batches
            if there is None
            else (
                normalised(move_data_to_device(made, there), form) for made in batches
            )
        )

    contestants: dict[str, Callable[[], Iterator[Any]]] = {OURS: lambda: ours(split)}
    if isinstance(split, Files):
        if there and split.channels in nvjpeg.MODES:
            ways = dict.fromkeys((split.decode, "nvjpeg"))
            contestants = {
                f"{OURS}, {way}": partial(ours, replace(split, decode=way))
                for way in ways
            }

        def opened_or_other(i: int) -> Image.Image:
            """The official recipe would end at the first bad file."""
            try:
                return _opened(split, i)
            # of a bad image: whatever Pillow raises, its DecompressionBombError is no
            # OSError
            except Exception:
                return _opened(split, readable[i % len(readable)])

        def official() -> Iterator[Any]:
            batches = official_loader(opened_or_other, ids, form, batch, workers)
            yield from (
                batches
                if there is None
                else (move_data_to_device(made, there) for made in batches)
            )

        contestants[OFFICIAL] = official
    wait = torch.get_device_module(there).synchronize if there else lambda: None
    taken = [
        {name: _pace(make(), wait) for name, make in contestants.items()}
        for _ in range(turns)
    ]
    return {
        name: statistics.median(turn[name] for turn in taken) for name in contestants
    }


def _pace(batches: Iterator[Any], wait: Callable[[], None]) -> float:
    """Without the first batch, for which processes have to start. wait: until what was asked of a GPU is done."""
    count, start = 0, 0.0
    for k, made in enumerate(batches):
        if k == 0:
            wait()
            start = time.perf_counter()
        else:
            count += len(made[1])
    wait()
    return count / max(1e-9, time.perf_counter() - start) if count else float("nan")


def step_pace(spec: dict[str, Any], data: Data) -> float | None:
    """Images a second that the model takes: the median of three steps, after one. None of images that are no squares.

    On a CPU of few images at once: there a batch takes so many times as long as one.
    """
    side = data.image_size[0]
    if data.image_size != (side, side):
        return None
    device = device_of(spec)
    patch = data.patch_size or chosen_patch_size(
        data.image_size, spec["model"]["patch_size_at_224"]
    )
    batch = spec["batch"] if device.type == "cuda" else min(spec["batch"], ON_CPU)
    spec = spec | {"image_size": side, "patch_size": patch, "channels": data.channels}
    images = torch.randn(batch, data.channels, side, side, device=device)
    step = our_step(
        spec, images, torch.rand(batch, (side // patch) ** 2, device=device)
    )
    synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    taken = interleaved_steps({"unmask": step}, 3, synchronise)["unmask"]
    return batch / statistics.median(taken)


def training_images(data: Data, container: Container) -> InMemory | Files:
    """As a run would hold them, or read them. Raises ConfigError where there are none."""
    return splits_of(data, listed(data, container), chosen_decode(data))[0]
