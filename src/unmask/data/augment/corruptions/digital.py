"""The digital corruptions: contrast, elastic deformation, pixelation and JPEG."""

from io import BytesIO

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from unmask.data.augment.corruptions.filters import gaussian_blur, sample_bilinear
from unmask.data.augment.corruptions.random import Draws


def contrast(
    image_CHW: Float[Tensor, "C H W"], draws: Draws, factor: float
) -> Float[Tensor, "C H W"]:
    """Shrink the deviations from each channel's mean."""
    mean_C11 = image_CHW.mean((1, 2), keepdim=True)
    return mean_C11 + factor * (image_CHW - mean_C11)


def elastic_transform(
    image_CHW: Float[Tensor, "C H W"],
    draws: Draws,
    amplitude: float,
    sigma: float,
    affine: float,
) -> Float[Tensor, "C H W"]:
    """Apply a random affine map, then displace every pixel by a smooth random field."""
    size = (image_CHW.shape[1], image_CHW.shape[2])
    grid_HW3 = torch.stack([*_grid(size), torch.ones(size)], dim=-1)
    y_HW, x_HW = (grid_HW3 @ inverse_affine(draws, size, affine)).unbind(-1)
    # the boundaries are those of the original's OpenCV (here) and SciPy (below)
    image_CHW = sample_bilinear(image_CHW, y_HW, x_HW, "mirror")
    down_HW, right_HW = elastic_displacements(draws, size, amplitude, sigma)
    y_HW, x_HW = _grid(size)
    return sample_bilinear(image_CHW, y_HW + down_HW, x_HW + right_HW, "reflect")


def _grid(size: tuple[int, int]) -> tuple[Float[Tensor, "H W"], Float[Tensor, "H W"]]:
    """Return the row and the column of each pixel."""
    steps = (torch.arange(side, dtype=torch.float32) for side in size)
    rows, cols = torch.meshgrid(*steps, indexing="ij")
    return rows, cols


def inverse_affine(
    draws: Draws, size: tuple[int, int], reach: float
) -> Float[Tensor, "3 2"]:
    """Return the matrix by which (y, x, 1) @ matrix is the place to read from.

    The affine map moves three corners of a centred square by up to `reach` each.
    """
    centre = torch.tensor(size) // 2
    half = min(size) // 3
    corners_32 = (centre + half * torch.tensor([[1, 1], [-1, 1], [-1, -1]])).double()
    moved_32 = corners_32 + reach * (2 * draws.uniform(0, 3, 2) - 1)
    moved_33 = torch.cat([moved_32, torch.ones(3, 1)], dim=1)
    # the inverse map takes the moved corners back to where they were
    return torch.linalg.solve(moved_33, corners_32).float()


def elastic_displacements(
    draws: Draws, size: tuple[int, int], amplitude: float, sigma: float
) -> Float[Tensor, "2 H W"]:
    """Return displacements (down, right) in pixels, at most `amplitude`.

    They are uniform noise in [-1, 1], smoothed, times the amplitude.
    """
    noise_2HW = 2 * draws.uniform(1, 2, *size).float() - 1
    return amplitude * gaussian_blur(noise_2HW, sigma, "reflect", truncate=3.0)


def pixelate(
    image_CHW: Float[Tensor, "C H W"], draws: Draws, factor: float
) -> Float[Tensor, "C H W"]:
    """Shrink by box averages and enlarge again, with Pillow."""
    height, width = image_CHW.shape[1:]
    small = (int(width * factor), int(height * factor))

    def coarsen(picture: Image.Image) -> Image.Image:
        shrunk = picture.resize(small, Image.Resampling.BOX)
        return shrunk.resize((width, height), Image.Resampling.BOX)

    return torch.cat([_to_pixels(coarsen(each)) for each in _to_pictures(image_CHW)])


def jpeg_compression(
    image_CHW: Float[Tensor, "C H W"], draws: Draws, quality: float
) -> Float[Tensor, "C H W"]:
    """Compress by Pillow's JPEG.

    Three channels are compressed as RGB (colours at half resolution); of any other
    number, each channel is compressed as grey.
    """

    def compress(picture: Image.Image) -> Image.Image:
        file = BytesIO()
        picture.save(file, "JPEG", quality=int(quality))
        return Image.open(file)

    return torch.cat([_to_pixels(compress(each)) for each in _to_pictures(image_CHW)])


def _to_pictures(image_CHW: Float[Tensor, "C H W"]) -> list[Image.Image]:
    """Return one RGB picture of three channels, else one grey picture per channel."""
    levels_CHW = (image_CHW * 255).round().byte()
    if len(levels_CHW) == 3:
        return [Image.fromarray(levels_CHW.permute(1, 2, 0).contiguous().numpy())]
    return [Image.fromarray(channel.numpy()) for channel in levels_CHW]


def _to_pixels(picture: Image.Image) -> Float[Tensor, "C H W"]:
    levels = np.array(picture)
    # grey pictures have no axis of channels
    levels_HWC = torch.from_numpy(levels.reshape(*levels.shape[:2], -1))
    return levels_HWC.permute(2, 0, 1).float() / 255
