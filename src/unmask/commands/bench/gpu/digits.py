"""Batches of real images for the GPU benchmark: digits, enlarged."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.config.datasets import INSTALLED_DATASETS
from unmask.data.loading.in_memory import load_arrays

# of the digits' pixels; rounded, as it does not matter here
MEAN, STD = 0.13, 0.31


def digit_batches(
    spec: dict[str, Any], steps: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images, noise of the masks), the same ones for the same spec."""
    train, _ = load_arrays(INSTALLED_DATASETS[0], Path("data"))
    side, generator = spec["image_size"], torch.Generator().manual_seed(0)
    num_patches = (side // spec["patch_size"]) ** 2
    for _ in range(steps):
        ids = torch.randint(len(train), (spec["batch"],), generator=generator)
        pixels = train.images_NCHW[ids].to(device).float() / 255
        images = F.interpolate((pixels - MEAN) / STD, (side, side), mode="bilinear")
        noise = torch.rand(spec["batch"], num_patches, generator=generator)
        yield images.expand(-1, spec["channels"], -1, -1), noise.to(device)
