"""What is measured of a sample of files before whole paths are: their first reading, and each step of the way."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unmask.data.batch import Batch, Format, normalised
from unmask.data.crops import Augment
from unmask.data.decoding import Encoded, decoded, opened, region, resized, view
from unmask.data.jpeg import Box
from unmask.data.stand_ins import BadImageError, content_of
from unmask.data.stores import Files
from unmask.randomness import make_key


class Sample(NamedTuple):
    """ids: of images that can be read; bad: the others. pace: images a second, size: bytes of one on average."""

    ids: list[int]
    bad: list[BadImageError]
    pace: float
    size: float


def first_read(split: Files, ids: list[int], at_once: int) -> Sample:
    """By the clock, before anything else has read them: what the disk gives, or the system's cache of it."""

    def read(i: int) -> bytes | np.ndarray | BadImageError:
        try:
            return content_of(split.store, i)
        except BadImageError as error:
            return error

    with ThreadPoolExecutor(at_once) as pool:
        start = time.perf_counter()
        contents = list(pool.map(read, ids))
        taken = time.perf_counter() - start
    sizes, good, bad = [], [], []
    for i, content in zip(ids, contents, strict=True):
        try:
            if isinstance(content, BadImageError):
                raise content
            decoded(opened(content, split.store.name(i), split.channels))
        except BadImageError as error:
            bad.append(error)
        else:
            good.append(i)
            sizes.append(content.nbytes if isinstance(content, np.ndarray) else len(content))
    return Sample(good, bad, len(ids) / taken, sum(sizes) / max(1, len(sizes)))


@dataclass
class Stopwatch:
    """CPU seconds, by the name of what was done."""

    count: int
    taken: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.taken[name] = (time.process_time() - start) / self.count


def parts_of(split: Files, form: Format, augment: Augment, ids: list[int]) -> dict[str, float]:
    """Of an image in each step of the way, on the fastest path; each step of all images at once."""
    for _ in range(3):  # the last one counts
        watch = Stopwatch(len(ids))
        with watch("read"):
            contents = [split.store.read(i) for i in ids]
        with watch("header"):
            images = [opened(c, split.store.name(i), split.channels) for i, c in zip(ids, contents, strict=True)]
        with watch("crops"):
            sizes = torch.tensor([image.size for image in images])
            boxes = augment.boxes(make_key(0, "crop"), torch.tensor(ids), 0, sizes, form.shape).tolist()
        with watch("decode"):
            parts = [_cut(image, (a, b, h, w)) for image, (a, b, h, w, _) in zip(images, boxes, strict=True)]
        with watch("resize"):
            seen = [resized(part, (0, 0, *part.shape[:2]), form.shape) for part in parts]
        with watch("collate"):
            batch = np.stack(seen)
        with watch("mirror, normalise"):
            ready = Batch(torch.from_numpy(batch).permute(0, 3, 1, 2), sizes[:, 0], sizes[:, 0], 0, None)
            normalised(ready._replace(mirrored_B=torch.tensor([bool(box[4]) for box in boxes])), form)
    if torch.cuda.is_available():
        del watch.taken["mirror, normalise"]  # the GPU does it
        watch.taken["copy to the GPU"] = _copy_seconds(torch.from_numpy(batch)) / len(ids)
    return watch.taken


def _copy_seconds(batch: Tensor) -> float:
    pinned = batch.pin_memory()
    for _ in range(3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        pinned.to("cuda", non_blocking=True)
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _cut(image: Encoded, box: Box) -> np.ndarray:
    """Nothing but decoding."""
    part = region(image, box) if image.header else None
    return view(image, box, box[2:]) if part is None else part
