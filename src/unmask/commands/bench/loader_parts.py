"""What is measured of a sample of files before whole paths are: their first reading, and each step of the way."""

import io
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from unmask.data.augment.crops import Augment
from unmask.data.images.decoding import Encoded, decoded, opened, region, resized, view
from unmask.data.images.jpeg import Box
from unmask.data.images.unreadable import BadImageError, content_of
from unmask.data.loading.batch import Batch, Format, normalised
from unmask.data.loading.folders import Files
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
            sizes.append(
                content.nbytes if isinstance(content, np.ndarray) else len(content)
            )
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


def parts_of(
    split: Files, form: Format, augment: Augment, ids: list[int]
) -> dict[str, float]:
    """Of an image in each step of the way, on the fastest path; each step of all images at once."""
    for _ in range(3):  # the last one counts
        watch = Stopwatch(len(ids))
        with watch("read"):
            contents = [split.store.read(i) for i in ids]
        with watch("header"):
            images = [
                opened(c, split.store.name(i), split.channels)
                for i, c in zip(ids, contents, strict=True)
            ]
        with watch("crops"):
            sizes = torch.tensor([image.size for image in images])
            boxes = augment.boxes(
                make_key(0, "crop"), torch.tensor(ids), 0, sizes, form.shape
            ).tolist()
        with watch("decode"):
            parts = [
                _cut(image, (a, b, h, w))
                for image, (a, b, h, w, _) in zip(images, boxes, strict=True)
            ]
        with watch("resize"):
            seen = [
                resized(part, (0, 0, *part.shape[:2]), form.shape) for part in parts
            ]
        with watch("collate"):
            batch = np.stack(seen)
        with watch("mirror, normalise"):
            ready = Batch(
                torch.from_numpy(batch).permute(0, 3, 1, 2),
                sizes[:, 0],
                sizes[:, 0],
                0,
                None,
            )
            normalised(
                ready._replace(
                    mirrored_B=torch.tensor([bool(box[4]) for box in boxes])
                ),
                form,
            )
    if torch.cuda.is_available():
        del watch.taken["mirror, normalise"]  # the GPU does it
        watch.taken["copy to the GPU"] = _copy_seconds(torch.from_numpy(batch)) / len(
            ids
        )
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


def official_view(form: Format) -> Callable[[Image.Image], Tensor]:
    """main_pretrain.py: RandomResizedCrop(224, (0.2, 1), bicubic), flip, ToTensor, Normalize."""
    from torchvision import transforms as T

    crop = T.RandomResizedCrop(
        form.shape, (0.2, 1.0), interpolation=T.InterpolationMode.BICUBIC
    )
    return T.Compose(
        [crop, T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(form.mean, form.std)]
    )


class Official(Dataset):
    def __init__(
        self, opened: Callable[[int], Image.Image], ids: Sequence[int], form: Format
    ) -> None:
        self.opened, self.ids, self.view = opened, ids, official_view(form)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, k: int) -> tuple[Any, int]:
        return self.view(self.opened(self.ids[k])), 0


def official_loader(
    opened: Callable[[int], Image.Image],
    ids: Sequence[int],
    form: Format,
    batch: int,
    workers: int,
) -> DataLoader:
    data = Official(opened, ids, form)
    return DataLoader(
        data,
        batch_size=batch,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )


PRESIZED = 256 / 224  # short side of what is stored, over that of what is seen
QUALITY = 90


@dataclass(frozen=True)
class Held:
    """A store in memory or in a memory map: contents as they are, bytes or pixels."""

    contents: Sequence[Any]
    suffix: str

    def __len__(self) -> int:
        return len(self.contents)

    def name(self, i: int) -> str:
        return f"{i}{self.suffix}"

    def read(self, i: int) -> Any:
        return self.contents[i]


def smaller_copies(
    split: Files, seen: int, ids: list[int], place: Path
) -> tuple[Files, Files]:
    """Copies whose short side is 8/7 of what the model sees: as JPEGs, and as pixels in a memory map."""
    side, contents, images = round(PRESIZED * seen), [], []
    for i in ids:
        whole = decoded(
            opened(split.store.read(i), split.store.name(i), split.channels)
        )
        share = min(1.0, side / min(whole.shape[:2]))
        height, width = (max(side, round(share * length)) for length in whole.shape[:2])
        images.append(
            np.ascontiguousarray(
                resized(whole, (0, 0, *whole.shape[:2]), (height, width))
            )
        )
        file = io.BytesIO()
        Image.fromarray(images[-1].squeeze()).save(
            file, "JPEG" if split.channels < 4 else "PNG", quality=QUALITY
        )
        contents.append(file.getvalue())
    (place / "pixels").write_bytes(b"".join(image.tobytes() for image in images))
    ends = np.cumsum([0, *(image.size for image in images)])
    flat = np.memmap(place / "pixels", dtype=np.uint8, mode="c")
    pixels = [
        flat[a:b].reshape(i.shape)
        for a, b, i in zip(ends, ends[1:], images, strict=False)
    ]
    labels = torch.full((len(ids),), -1)
    return Files(Held(contents, ".jpg"), labels, split.channels), Files(
        Held(pixels, ""), labels, split.channels
    )
