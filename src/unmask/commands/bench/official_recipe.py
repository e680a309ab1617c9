"""The official MAE recipe's way of loading images, as a baseline."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from unmask.config.data import resized_side
from unmask.data.images.pillow import PILLOW_MODES
from unmask.data.loading.batch import ImageFormat
from unmask.data.loading.folders import StoredImages


def official_view(
    image_format: ImageFormat, crop: Any = None
) -> Callable[[Image.Image], Tensor]:
    """Return the transform of the official main_pretrain.py.

    It is RandomResizedCrop(224, (0.2, 1), bicubic), or another crop, flip, ToTensor and
    Normalize.
    """
    bicubic = transforms.InterpolationMode.BICUBIC
    return transforms.Compose(
        [
            crop
            or transforms.RandomResizedCrop(
                image_format.shape, (0.2, 1.0), interpolation=bicubic
            ),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(image_format.mean, image_format.std),
        ]
    )


def official_evaluation(
    image_format: ImageFormat,
) -> Callable[[Image.Image], Tensor]:
    """Return the transform of the official main_finetune.py for evaluation."""
    bicubic = transforms.InterpolationMode.BICUBIC
    short_side = resized_side(min(image_format.shape), image_format.eval_crop)
    return transforms.Compose(
        [
            transforms.Resize(short_side, bicubic),
            transforms.CenterCrop(image_format.shape),
            transforms.ToTensor(),
            transforms.Normalize(image_format.mean, image_format.std),
        ]
    )


def open_with_pillow(split: StoredImages, i: int) -> Image.Image:
    """Open an image as torchvision's ImageFolder does, in the split's channels."""
    content = split.store.read(i)
    # raw containers hold pixels
    if not isinstance(content, bytes):
        return Image.fromarray(content)
    return Image.open(io.BytesIO(content)).convert(PILLOW_MODES[split.channels])


class OfficialDataset(Dataset):
    """Give the images `ids`, or readable ones in place of bad ones.

    The official recipe itself ends at the first bad file.
    """

    def __init__(
        self,
        split: StoredImages,
        ids: Sequence[int],
        readable_ids: Sequence[int],
        image_format: ImageFormat,
    ) -> None:
        self.split = split
        self.ids = ids
        self.readable_ids = readable_ids
        self.view = official_view(image_format)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, k: int) -> tuple[Tensor, int]:
        return self.view(self._open(self.ids[k])), 0

    def _open(self, i: int) -> Image.Image:
        try:
            return open_with_pillow(self.split, i)
        # Pillow raises whatever it likes for a bad image; its DecompressionBombError,
        # for one, is no OSError
        except Exception:
            substitute = self.readable_ids[i % len(self.readable_ids)]
            return open_with_pillow(self.split, substitute)


def official_loader(
    dataset: OfficialDataset, batch_size: int, workers: int
) -> DataLoader:
    return DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )
