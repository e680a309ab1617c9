"""JPEGs for a GPU: each way of decoding alone, and feeding the largest batch's step."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import numpy as np
import torch
from PIL import Image

from unmask.commands.bench.contestants.ours import build_ours
from unmask.commands.bench.gpu.context import PartRequest, Report
from unmask.commands.bench.gpu.small_images import (
    AUGMENTATION,
    HALVES,
    batches_on,
    images_per_second,
    pace_of_epoch,
)
from unmask.commands.bench.step_worker import draw_batch, make_step
from unmask.commands.units import format_number
from unmask.data.images.decoding import DecodeMode
from unmask.data.images.native import region_decoder
from unmask.data.loading.batch import ImageFormat
from unmask.data.loading.folders import StoredImages, splits_from_listing
from unmask.data.loading.module import LoaderSettings
from unmask.data.loading.sampler import EvalBatches
from unmask.data.loading.views import Views
from unmask.data.sources import list_source

QUALITY = 95
# of a photo, a side is so many times that of the noise that it is enlarged from
SMOOTHNESS = 8
# each file is read so often: enough batches, in less space
REPEATS = 4


def measure_feeding(request: PartRequest) -> Iterator[Report]:
    """Yield images a second of each decoder, alone and before the model."""
    device, sizes = torch.device(request.device), request.sizes
    spec = request.spec(*request.first_model, f"batch={sizes.batch}")
    built = build_ours(spec)
    built.model.to(device).train()
    step = make_step(built, "bf16-mixed")
    batch = draw_batch(spec, sizes.batch, device)
    model = images_per_second(partial(step, *batch), sizes.batch, sizes.rounds, device)
    shape = (spec["image_size"], spec["image_size"])
    image_format = ImageFormat(shape, HALVES, HALVES)
    rows = []
    with TemporaryDirectory() as folder:
        write_photos(Path(folder), sizes.photos, sizes.photo_side)
        listing = list_source("image_folder", Path(folder))
        split, _ = splits_from_listing(listing, 3, shape, False)
        assert isinstance(split, StoredImages)
        ids = EvalBatches([*range(len(split))] * REPEATS, sizes.batch)
        for mode in get_args(DecodeMode):
            views = Views(replace(split, decode=mode), image_format, AUGMENTATION, 0)
            feed = partial(batches_on, device, views, ids, LoaderSettings())
            alone = pace_of_epoch(feed, None, batch[1], device)
            fed = pace_of_epoch(feed, step, batch[1], device)
            share = f"{fed / model:.0%}"
            rows.append((mode, format_number(alone), format_number(fed), share))
    note = (
        f"{spec['model']['name']}, batch {sizes.batch}, bf16-mixed, takes"
        f" {format_number(model)} images/s; {sizes.photos:,} JPEGs of"
        f" {sizes.photo_side} pixels, quality {QUALITY}, of smooth noise"
    )
    native = "is built" if region_decoder() else "is not built: make native"
    notes = (note, f"The decoder that reads only a JPEG's crop (`fast`) {native}.")
    header = ("data.decode", "images/s alone", "images/s feeding", "of the model's")
    yield Report(header, rows, notes)


def write_photos(folder: Path, count: int, side: int) -> None:
    """Write smooth noise as JPEGs: they have about as many bytes as photos."""
    generator = np.random.default_rng(0)
    low = max(2, side // SMOOTHNESS)
    for k in range(count):
        noise = generator.integers(0, 256, (low, low, 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)
        image.save(folder / f"{k:05d}.jpg", quality=QUALITY)
