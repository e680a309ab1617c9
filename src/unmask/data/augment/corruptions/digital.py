"""Contrast, elastic deformation, pixelation and JPEG."""

from io import BytesIO

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from unmask.data.augment.corruptions.filters import bilinear, smooth
from unmask.data.augment.corruptions.random import Draws


def contrast(
    image_CHW: Float[Tensor, "C H W"], draws: Draws, factor: float
) -> Float[Tensor, "C H W"]:
    """Deviations from each channel's mean shrink."""
    mean_C11 = image_CHW.mean((1, 2), keepdim=True)
    return mean_C11 + factor * (image_CHW - mean_C11)


def elastic_transform(
    image_CHW: Float[Tensor, "C H W"],
    draws: Draws,
    amplitude: float,
    sigma: float,
    affine: float,
) -> Float[Tensor, "C H W"]:
    """A random affine map, then every pixel reads from a place that a smooth random field moves."""
    size = (image_CHW.shape[1], image_CHW.shape[2])
    grid_HW3 = torch.stack([*_grid(size), torch.ones(size)], dim=-1)
    y_HW, x_HW = (grid_HW3 @ inverse_affine(draws, size, affine)).unbind(-1)
    image_CHW = bilinear(image_CHW, y_HW, x_HW, "mirror")
    down_HW, right_HW = waves(draws, size, amplitude, sigma)
    y_HW, x_HW = _grid(size)
    return bilinear(image_CHW, y_HW + down_HW, x_HW + right_HW, "reflect")


def _grid(size: tuple[int, int]) -> tuple[Float[Tensor, "H W"], Float[Tensor, "H W"]]:
    rows, cols = torch.meshgrid(
        *(torch.arange(side, dtype=torch.float32) for side in size), indexing="ij"
    )
    return rows, cols


def inverse_affine(
    draws: Draws, size: tuple[int, int], reach: float
) -> Float[Tensor, "3 2"]:
    """(y, x, 1) @ matrix reads the affine map that moves three corners of a centred square by up to `reach` each."""
    centre, half = torch.tensor(size) // 2, min(size) // 3
    corners_32 = (centre + half * torch.tensor([[1, 1], [-1, 1], [-1, -1]])).double()
    moved_32 = corners_32 + reach * (2 * draws.uniform(0, 3, 2) - 1)
    return torch.linalg.solve(
        torch.cat([moved_32, torch.ones(3, 1)], dim=1), corners_32
    ).float()


def waves(
    draws: Draws, size: tuple[int, int], amplitude: float, sigma: float
) -> Float[Tensor, "2 H W"]:
    """Displacements (down, right): uniform noise in [-1, 1], smoothed, times the amplitude, which bounds them."""
    return amplitude * smooth(
        2 * draws.uniform(1, 2, *size).float() - 1, sigma, "reflect", truncate=3.0
    )


def pixelate(
    image_CHW: Float[Tensor, "C H W"], draws: Draws, factor: float
) -> Float[Tensor, "C H W"]:
    """Shrink by box averages and enlarge again, with Pillow."""
    height, width = image_CHW.shape[1:]
    small = (int(width * factor), int(height * factor))

    def coarse(picture: Image.Image) -> Image.Image:
        return picture.resize(small, Image.Resampling.BOX).resize(
            (width, height), Image.Resampling.BOX
        )

    return torch.cat([_pixels(coarse(picture)) for picture in _pictures(image_CHW)])


def jpeg_compression(
    image_CHW: Float[Tensor, "C H W"], draws: Draws, quality: float
) -> Float[Tensor, "C H W"]:
    """Pillow's JPEG: three channels as RGB (colours at half resolution), any other number each as grey."""

    def compressed(picture: Image.Image) -> Image.Image:
        file = BytesIO()
        picture.save(file, "JPEG", quality=int(quality))
        return Image.open(file)

    return torch.cat([_pixels(compressed(picture)) for picture in _pictures(image_CHW)])


def _pictures(image_CHW: Float[Tensor, "C H W"]) -> list[Image.Image]:
    """One RGB picture of three channels, else one grey picture a channel."""
    levels_CHW = (image_CHW * 255).round().byte()
    if len(levels_CHW) == 3:
        return [Image.fromarray(levels_CHW.permute(1, 2, 0).contiguous().numpy())]
    return [Image.fromarray(channel.numpy()) for channel in levels_CHW]


def _pixels(picture: Image.Image) -> Float[Tensor, "C H W"]:
    levels = np.array(picture)
    return (
        torch.from_numpy(levels.reshape(*levels.shape[:2], -1)).permute(2, 0, 1).float()
        / 255
    )
