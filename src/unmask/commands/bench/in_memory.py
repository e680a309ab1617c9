"""Compare crops of small images in memory with torchvision's in a DataLoader.

src/bench.py uses this for data sets that lie in memory, such as CIFAR.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from unmask.commands.bench.measure import Contestant
from unmask.commands.bench.official_recipe import official_view
from unmask.data.augment.crops import Augmentation, margin_sizes
from unmask.data.loading.batch import ImageFormat
from unmask.data.loading.in_memory import InMemory
from unmask.data.loading.module import LoaderSettings, make_loader, normalise
from unmask.data.loading.sampler import EpochBatches
from unmask.data.loading.views import Views
from unmask.randomness import make_key

BATCH_SIZE = 256
# images of a round; fewer for torchvision, which takes several times as long
OUR_IMAGES = 5120
TORCHVISION_IMAGES = 1024
PADDED_CROP = Augmentation("padded", flip=True)
RANDOM_CROP = Augmentation("random", (0.2, 1.0), flip=True)


class TransformDataset(Dataset):
    """Give images one at a time, as torchvision's own data sets do."""

    def __init__(
        self, images_NHWC: UInt8[np.ndarray, "N H W *C"], transform: Any
    ) -> None:
        self.images_NHWC = images_NHWC
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images_NHWC)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images_NHWC[i])), 0


def in_memory_contestants(
    split: InMemory, image_format: ImageFormat
) -> dict[str, Contestant]:
    """Return all ways of making batches of images in memory, by name.

    Each makes normalised floats (or uint8 where its name says so) in this process.
    """
    few = InMemory(split.images_NCHW[:OUR_IMAGES], split.labels_N[:OUR_IMAGES])
    shape = image_format.shape
    padded = transforms.RandomCrop(shape, margin_sizes(shape)[::-1])
    # ours drops the last batch where it is not full
    our_count = len(few) - len(few) % min(BATCH_SIZE, len(few))
    their_count = min(TORCHVISION_IMAGES, len(few))

    def ours(augmentation: Augmentation, as_uint8: bool = False) -> Contestant:
        run = _our_epoch(few, image_format, augmentation, as_uint8)
        return Contestant(run, our_count)

    def theirs(crop: Any = None) -> Contestant:
        view = official_view(image_format, crop)
        return Contestant(_torchvision_epoch(few, view), their_count)

    return {
        "torchvision, padded crop": theirs(padded),
        "padded crop": ours(PADDED_CROP),
        "padded crop, uint8": ours(PADDED_CROP, as_uint8=True),
        "torchvision, random resized crop": theirs(),
        "random resized crop": ours(RANDOM_CROP),
    }


def _our_epoch(
    split: InMemory,
    image_format: ImageFormat,
    augmentation: Augmentation,
    as_uint8: bool = False,
) -> Callable[[int], None]:
    views = Views(split, image_format, augmentation, 0)
    batch_size = min(BATCH_SIZE, len(split))

    def run_epoch(turn: int) -> None:
        # starting at the turn's own step gives each turn crops of its own
        first_step = turn * (len(split) // batch_size)
        batches = EpochBatches(
            list(range(len(split))),
            batch_size,
            1,
            make_key(0, "order"),
            lambda: first_step,
        )
        for batch in make_loader(views, batches, LoaderSettings(0)):
            if not as_uint8:
                normalise(batch, image_format)

    return run_epoch


def _torchvision_epoch(split: InMemory, view: Any) -> Callable[[int], None]:
    """Return an epoch of a DataLoader without workers: what one core can do."""
    images = split.images_NCHW[:TORCHVISION_IMAGES].permute(0, 2, 3, 1).numpy()
    # Pillow wants grey images without an axis for channels
    images = images[..., 0] if images.shape[3] == 1 else images
    dataset = TransformDataset(np.ascontiguousarray(images), view)
    batch_size = min(BATCH_SIZE, len(images))
    batches = DataLoader(dataset, batch_size=batch_size, shuffle=True)

    def run_epoch(turn: int) -> None:
        torch.manual_seed(turn)
        for _ in batches:
            pass

    return run_epoch
