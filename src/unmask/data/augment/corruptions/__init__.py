"""The 15 common corruptions of ImageNet-C, made when they are needed.

Hendrycks & Dietterich 2019, arXiv 1903.12261. Images may have any size from 8 x 8 and
any number of channels: three are taken as RGB, others as shades (`to_grey`,
`brightness` and `jpeg_compression` say what that means). The constants are in
severities.py. Differences from the published image files:

- frost is drawn, not photographed;
- the kernel of defocus sums to one at every radius (theirs to 1.01 from radius 8 on);
- results are rounded to the nearest level, not down, and not stored as JPEG;
- intermediate layers are not rounded;
- random draws are ours, so images agree in distribution, not pixel by pixel.
"""

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from unmask.data.augment.corruptions.blur import (
    defocus_blur,
    glass_blur,
    motion_blur,
    zoom_blur,
)
from unmask.data.augment.corruptions.digital import (
    contrast,
    elastic_transform,
    jpeg_compression,
    pixelate,
)
from unmask.data.augment.corruptions.noise import (
    gaussian_noise,
    impulse_noise,
    shot_noise,
)
from unmask.data.augment.corruptions.random import Draws
from unmask.data.augment.corruptions.severities import severity_constants
from unmask.data.augment.corruptions.weather import brightness, fog, frost, snow
from unmask.data.images.tensors import PixelBatch, bytes_to_shares, shares_to_bytes
from unmask.randomness import Key, make_key

SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST_SIDE = 8

# (image_CHW in [0, 1], draws, *constants), in the paper's order
CORRUPTIONS: dict[str, Callable[..., Tensor]] = {
    corruption.__name__: corruption
    for corruption in (
        gaussian_noise,
        shot_noise,
        impulse_noise,
        defocus_blur,
        glass_blur,
        motion_blur,
        zoom_blur,
        snow,
        frost,
        fog,
        brightness,
        contrast,
        elastic_transform,
        pixelate,
        jpeg_compression,
    )
}


def corrupt(
    images_BCHW: PixelBatch,
    name: str,
    severity: int,
    key: Key,
    ids_B: Int[Tensor, "B"],
) -> PixelBatch:
    """Corrupt each image, as a function of (key, name, severity, its id).

    Raises ValueError for unknown names or severities, and for images below 8 x 8.
    """
    height, width = images_BCHW.shape[2:]
    _check(name, severity, height, width)
    draw_key = make_key(key.high << 32 | key.low, name, severity)
    constants = severity_constants(name, severity, height, width)
    # on the CPU: some draws need log and cos, whose last bits differ by device
    pixels_BCHW = bytes_to_shares(images_BCHW.cpu())
    out_BCHW = torch.empty_like(pixels_BCHW)
    # one by one, so that the bits do not depend on the batch
    for out_CHW, image_CHW, sample in zip(
        out_BCHW, pixels_BCHW, ids_B.tolist(), strict=True
    ):
        draws = Draws(draw_key, sample)
        out_CHW.copy_(CORRUPTIONS[name](image_CHW, draws, *constants))
    out_BCHW = out_BCHW.clamp(0, 1)
    if images_BCHW.dtype == torch.uint8:
        out_BCHW = shares_to_bytes(out_BCHW)
    return out_BCHW.to(images_BCHW.device)


def _check(name: str, severity: int, height: int, width: int) -> None:
    if name not in CORRUPTIONS:
        raise ValueError(
            f"no corruption is called {name!r}; pick one of {', '.join(CORRUPTIONS)}"
        )
    if severity not in SEVERITIES:
        raise ValueError(
            f"severity={severity} is not published; pick one of 1 (mild) to 5 (strong)"
        )
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"images of {height} x {width} pixels are too small to corrupt; "
            f"both sides must have {SMALLEST_SIDE} pixels or more"
        )
