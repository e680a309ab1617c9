"""ViT-Ti on images of CIFAR's size: steps alone, loaders alone, and both together."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from unmask.blocks import compile_blocks
from unmask.commands.bench.contestants.ours import build_ours
from unmask.commands.bench.gpu.context import PartRequest, Report, Sizes
from unmask.commands.bench.measure import Contestant, device_clock, time_in_turn
from unmask.commands.bench.step_worker import Step, draw_batch, make_step
from unmask.commands.units import format_number
from unmask.data.augment.crops import Augmentation
from unmask.data.loading.batch import Batch, ImageFormat
from unmask.data.loading.in_memory import InMemory
from unmask.data.loading.module import LoaderSettings, make_loader, normalise
from unmask.data.loading.sampler import EvalBatches
from unmask.data.loading.views import Views

AUGMENTATION = Augmentation("random", (0.2, 1.0), flip=True)
HALVES = (0.5, 0.5, 0.5)
HEADER = ("what", "images/s")


def measure_small_images(request: PartRequest) -> Iterator[Report]:
    """Yield images a second of steps, of loaders, and of steps that loaders feed."""
    device = torch.device(request.device)
    sizes = request.sizes
    spec = request.spec(*request.small_model, f"batch={sizes.small_batch}")
    batch = draw_batch(spec, sizes.small_batch, device)
    rows = []
    for name in ("eager", "compiled"):
        built = build_ours(spec)
        built.model.to(device).train()
        if name == "compiled":
            compile_blocks(built.model)
        step = make_step(built, "bf16-mixed")
        run = partial(step, *batch)
        pace = images_per_second(run, sizes.small_batch, sizes.rounds, device)
        rows.append((f"step alone, {name}", format_number(pace)))
    for name, feed in _feeds(spec, sizes, device).items():
        alone = pace_of_epoch(feed, None, batch[1], device)
        # the compiled step
        fed = pace_of_epoch(feed, step, batch[1], device)
        rows.append((f"crops in the {name}'s memory", format_number(alone)))
        rows.append((f"compiled step on them, {name}", format_number(fed)))
    note = (
        f"{spec['model']['name']}, patches of {spec['patch_size']}, batch"
        f" {sizes.small_batch}, bf16-mixed; {sizes.images:,} random images of"
        f" {spec['image_size']} pixels, random resized crops and flips"
    )
    yield Report(HEADER, rows, (note,))


def _feeds(
    spec: dict[str, Any], sizes: Sizes, device: torch.device
) -> dict[str, Callable[[], Iterator[Batch]]]:
    """Return what makes an epoch of batches, by where the images lie."""
    side = spec["image_size"]
    pixels = torch.randint(0, 256, (sizes.images, 3, side, side), dtype=torch.uint8)
    split = InMemory(pixels, torch.zeros(sizes.images, dtype=torch.long))
    image_format = ImageFormat((side, side), HALVES, HALVES)
    feeds: dict[str, Callable[[], Iterator[Batch]]] = {}
    for name, place in (("host", torch.device("cpu")), ("device", device)):
        views = Views(replace(split, device=place), image_format, AUGMENTATION, 0)
        ids = EvalBatches(range(sizes.images), sizes.small_batch)
        feeds[name] = partial(batches_on, device, views, ids, LoaderSettings(0))
    return feeds


def batches_on(
    device: torch.device, views: Views, ids: EvalBatches, settings: LoaderSettings
) -> Iterator[Batch]:
    """Yield normalised batches that are on the device."""
    for batch in make_loader(views, ids, settings):
        yield normalise(move_data_to_device(batch, device), views.image_format)


def images_per_second(
    run: Callable[[], object], images: int, rounds: int, device: torch.device
) -> float:
    """Return the pace of a step, as the median of rounds after three that warm up."""
    seconds = time_in_turn(
        {"step": Contestant(lambda _: run())},
        rounds,
        warm_up=3,
        clock=device_clock(device),
    )["step"]
    return images / statistics.median(seconds)


def pace_of_epoch(
    make_batches: Callable[[], Iterator[Batch]],
    step: Step | None,
    noise_BL: Tensor,
    device: torch.device,
) -> float:
    """Return images a second over all batches but the first; with a step on each."""
    clock = device_clock(device)
    batches = make_batches()
    # the first one waits for processes to start
    first = next(batches)
    if step:
        step(first.images_BCHW, noise_BL[: len(first.images_BCHW)])
    start, count = clock(), 0
    for batch in batches:
        count += len(batch.images_BCHW)
        if step:
            step(batch.images_BCHW, noise_BL[: len(batch.images_BCHW)])
    return count / max(1e-9, clock() - start)
