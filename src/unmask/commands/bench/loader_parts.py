"""Time single parts of reading images: the first read, and each step of the way."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from unmask.data.augment.crops import Augmentation
from unmask.data.images.arrays import Content
from unmask.data.images.decoding import (
    Box,
    EncodedImage,
    decode_crop,
    decode_image,
    decode_region,
    read_header,
    resize_crop,
)
from unmask.data.images.unreadable import BadImageError, read_content
from unmask.data.loading.batch import ImageFormat
from unmask.data.loading.folders import StoredImages
from unmask.data.loading.module import normalise_images
from unmask.data.loading.views import mirror
from unmask.randomness import make_key

REPETITIONS = 3  # the last one counts


class FirstRead(NamedTuple):
    """What the first read of a sample of files showed.

    mean_bytes: the average size of a file.
    """

    readable_ids: list[int]
    bad_images: list[BadImageError]
    images_per_second: float
    mean_bytes: float


def read_first_time(split: StoredImages, ids: list[int], num_threads: int) -> FirstRead:
    """Time reading files before anything else reads them.

    The clock shows what the disk gives, or the system's cache of it.
    """

    def read(i: int) -> Content | BadImageError:
        try:
            return read_content(split.store, i)
        except BadImageError as error:
            return error

    with ThreadPoolExecutor(num_threads) as pool:
        start = time.perf_counter()
        contents = list(pool.map(read, ids))
        seconds = time.perf_counter() - start
    # only decoding tells whether an image is bad; the clock has stopped
    sizes = []
    readable_ids = []
    bad_images = []
    for i, content in zip(ids, contents, strict=True):
        try:
            if isinstance(content, BadImageError):
                raise content
            decode_image(read_header(content, split.store.name(i), split.channels))
        except BadImageError as error:
            bad_images.append(error)
        else:
            readable_ids.append(i)
            sizes.append(
                content.nbytes if isinstance(content, np.ndarray) else len(content)
            )
    mean_bytes = sum(sizes) / max(1, len(sizes))
    return FirstRead(readable_ids, bad_images, len(ids) / seconds, mean_bytes)


@dataclass
class Stopwatch:
    """Collect CPU seconds an image by the name of what was done."""

    num_images: int
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        # CPU time: other programs on the machine do not count
        start = time.process_time()
        yield
        self.seconds[name] = (time.process_time() - start) / self.num_images


def time_parts(
    split: StoredImages,
    image_format: ImageFormat,
    augmentation: Augmentation,
    ids: list[int],
) -> dict[str, float]:
    """Return the CPU seconds an image of each step of the fastest path.

    Each step is made of all images before the next one, so that it can be timed.
    """
    for _ in range(REPETITIONS):
        watch = Stopwatch(len(ids))
        batch_BHWC = _load_step_by_step(split, image_format, augmentation, ids, watch)
    if torch.cuda.is_available():
        # with a GPU the loader only copies, and the GPU normalises
        del watch.seconds["normalise"]
        copy_seconds = _time_copy(torch.from_numpy(batch_BHWC))
        watch.seconds["copy to the GPU"] = copy_seconds / len(ids)
    return watch.seconds


def _load_step_by_step(
    split: StoredImages,
    image_format: ImageFormat,
    augmentation: Augmentation,
    ids: list[int],
    watch: Stopwatch,
) -> UInt8[np.ndarray, "B H W C"]:
    shape = image_format.shape
    with watch("read"):
        contents = [split.store.read(i) for i in ids]
    with watch("header"):
        images = [
            read_header(content, split.store.name(i), split.channels)
            for i, content in zip(ids, contents, strict=True)
        ]
    with watch("crops"):
        sizes_B2 = torch.tensor([image.size for image in images])
        key = make_key(0, "crop")
        boxes = augmentation.draw_boxes(
            key, torch.tensor(ids), 0, sizes_B2, shape
        ).tolist()
    with watch("decode"):
        crops = [
            _decode_box(image, (top, left, height, width))
            for image, (top, left, height, width, _) in zip(images, boxes, strict=True)
        ]
    with watch("resize"):
        views = [resize_crop(crop, (0, 0, *crop.shape[:2]), shape) for crop in crops]
    with watch("mirror"):
        views = [
            mirror(view) if box[4] else view
            for view, box in zip(views, boxes, strict=True)
        ]
    with watch("collate"):
        batch_BHWC = np.stack(views)
    with watch("normalise"):
        images_BCHW = torch.from_numpy(batch_BHWC).permute(0, 3, 1, 2)
        normalise_images(images_BCHW, image_format)
    return batch_BHWC


def _decode_box(image: EncodedImage, box: Box) -> UInt8[np.ndarray, "h w C"]:
    """Decode the box, without resizing it."""
    region_HWC = decode_region(image, box) if image.header else None
    # where the fast decoder complains, Pillow decides what the pixels are
    if region_HWC is None:
        return decode_crop(image, box, box[2:])
    return region_HWC


def _time_copy(batch: Tensor) -> float:
    """Return the seconds of a copy to the GPU from pinned memory."""
    pinned = batch.pin_memory()
    for _ in range(REPETITIONS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        pinned.to("cuda", non_blocking=True)
        torch.cuda.synchronize()
    return time.perf_counter() - start
