"""Make images for tests: some like photographs, and some of one shade."""

import torch
from torch import Tensor


def scenes(count: int, channels: int, height: int, width: int) -> Tensor:
    """Draw smooth shades with fine stripes, a dark disk and a bright box.

    Photographs have all of these.
    """
    y = torch.arange(height)[:, None] / height
    x = torch.arange(width) / width
    images = []
    for k in range(count * channels):
        shade = (
            0.5
            + 0.15 * torch.sin(6 * x + k)
            + 0.1 * torch.cos(9 * y)
            + 0.08 * torch.sin(40 * (x + y) + k)
        )
        shade = torch.where((x - 0.4) ** 2 + (y - 0.5) ** 2 < 0.05, 0.4 * shade, shade)
        images.append(
            torch.where(
                (x > 0.65) & (x < 0.8) & (y > 0.2) & (y < 0.6), shade + 0.25, shade
            )
        )
    return (
        (torch.stack(images).clamp(0, 1) * 255)
        .round()
        .byte()
        .view(count, channels, height, width)
    )


def flat(
    level: float, channels: int = 3, height: int = 128, width: int = 128
) -> Tensor:
    return torch.full((channels, height, width), level)


def scene(channels: int = 3, height: int = 40, width: int = 56) -> Tensor:
    return scenes(1, channels, height, width)[0].float() / 255
