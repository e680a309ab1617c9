"""The recipe that the official code of MAE reads images by: torchvision on Pillow, a float image at a time."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from unmask.data.batch import Format


def official_view(form: Format) -> Callable[[Image.Image], Tensor]:
    """main_pretrain.py: RandomResizedCrop(224, (0.2, 1), bicubic), flip, ToTensor, Normalize."""
    from torchvision import transforms as T

    crop = T.RandomResizedCrop(form.shape, (0.2, 1.0), interpolation=T.InterpolationMode.BICUBIC)
    return T.Compose([crop, T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(form.mean, form.std)])


class Official(Dataset):
    def __init__(self, opened: Callable[[int], Image.Image], ids: Sequence[int], form: Format) -> None:
        self.opened, self.ids, self.view = opened, ids, official_view(form)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, k: int) -> tuple[Any, int]:
        return self.view(self.opened(self.ids[k])), 0


def official_loader(
    opened: Callable[[int], Image.Image], ids: Sequence[int], form: Format, batch: int, workers: int
) -> DataLoader:  # fmt: skip
    data = Official(opened, ids, form)
    return DataLoader(data, batch_size=batch, num_workers=workers, pin_memory=torch.cuda.is_available())
