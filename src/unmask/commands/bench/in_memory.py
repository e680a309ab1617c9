"""What cutting small images out of memory costs beside torchvision's transforms in a DataLoader, for src/bench.py."""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from unmask.data.augment.crops import Augment, margins
from unmask.data.loading.batch import Format, drawn, normalised
from unmask.data.loading.in_memory import InMemory
from unmask.data.loading.module import Loading, loader
from unmask.data.loading.on_device import OnDevice
from unmask.data.loading.sampler import EpochBatches
from unmask.data.loading.views import Views
from unmask.randomness import make_key

BATCH, OURS, THEIRS = 256, 5120, 1024  # images: of a batch, and of a round of either
PADDED, RANDOM = Augment("padded", flip=True), Augment("random", (0.2, 1.0), flip=True)
# what is made in a round, and of how many images
Contestant = tuple[Callable[[int], Any], int]


class Transformed(Dataset):
    """Images one at a time, as torchvision's own data sets give them."""

    def __init__(self, images_NHWC: np.ndarray, transform: Any) -> None:
        self.images_NHWC, self.transform = images_NHWC, transform

    def __len__(self) -> int:
        return len(self.images_NHWC)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images_NHWC[i])), 0


def held_contestants(split: InMemory, form: Format) -> dict[str, Contestant]:
    """Each makes normalised float batches (or uint8 ones) in this process, of images that have the wanted size."""
    few = InMemory(split.images_NCHW[:OURS], split.labels_N[:OURS])
    there = replace(few, resident=OnDevice(few.images_NCHW))
    to_square = transforms.RandomResizedCrop(
        form.shape, (0.2, 1), interpolation=transforms.InterpolationMode.BICUBIC
    )
    by_torchvision = min(THEIRS, len(few))
    return {
        "torchvision, padded crop": (
            _theirs(
                few, form, transforms.RandomCrop(form.shape, margins(form.shape)[::-1])
            ),
            by_torchvision,
        ),
        "padded crop": (_ours(few, form, PADDED), _whole(few)),
        "padded crop, uint8": (_ours(few, form, PADDED, as_bytes=True), _whole(few)),
        "padded crop, images on the device": (_ours(there, form, PADDED), _whole(few)),
        "torchvision, random resized crop": (
            _theirs(few, form, to_square),
            by_torchvision,
        ),
        "random resized crop": (_ours(few, form, RANDOM), _whole(few)),
    }


def _whole(split: InMemory) -> int:
    """Images of an epoch's whole batches."""
    return len(split) - len(split) % min(BATCH, len(split))


def _ours(
    split: InMemory, form: Format, augment: Augment, as_bytes: bool = False
) -> Callable[[int], None]:
    views, batch = Views(split, form, augment, 0), min(BATCH, len(split))

    def epoch(turn: int) -> None:
        batches = EpochBatches(
            list(range(len(split))),
            batch,
            1,
            make_key(0, "order"),
            lambda: turn * (len(split) // batch),
        )
        for made in loader(views, batches, Loading(0)):
            _ = drawn(made, form.shape) if as_bytes else normalised(made, form)

    return epoch


def _theirs(split: InMemory, form: Format, crop: Any) -> Callable[[int], None]:
    """In a DataLoader without workers: what a core does."""
    images = split.images_NCHW[:THEIRS].permute(0, 2, 3, 1).numpy()
    images = images[..., 0] if images.shape[3] == 1 else images
    rest = [
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(form.mean, form.std),
    ]
    transformed = Transformed(
        np.ascontiguousarray(images), transforms.Compose([crop, *rest])
    )
    batches = DataLoader(transformed, batch_size=min(BATCH, len(images)), shuffle=True)

    def epoch(turn: int) -> None:
        torch.manual_seed(turn)
        for _ in batches:
            pass

    return epoch


def compared(split: InMemory, form: Format, rounds: int = 8) -> dict[str, float]:
    """Images a second of a core: medians by the process's own clock, in turn, after a round that warms up."""
    contestants, taken = held_contestants(split, form), dict[str, list[float]]()
    for turn in range(rounds + 1):
        for name, (make, count) in contestants.items():
            start = time.process_time()
            make(turn)
            taken.setdefault(name, []).append(count / (time.process_time() - start))
    return {name: statistics.median(rates[1:]) for name, rates in taken.items()}


if __name__ == "__main__":  # of CIFAR's size; what is in the images does not matter
    torch.set_num_threads(1)
    noise = torch.randint(0, 256, (OURS, 3, 32, 32), dtype=torch.uint8)
    measured = compared(
        InMemory(noise, torch.zeros(OURS).long()),
        Format((32, 32), (0.5,) * 3, (0.25,) * 3),
    )
    for name, rate in measured.items():
        print(f"{name:36s}{rate:10,.0f} images/s")
