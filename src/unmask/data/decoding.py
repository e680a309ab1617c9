"""From the bytes of an image to a view of it: the header first, then the crop is chosen, then it is decoded, resized.

Decoding is upright (EXIF), of the wanted number of channels, with 16-bit grey scaled, not clipped.
"""

import io
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch.nn.functional import interpolate

from unmask.data.arrays import array_pixels, array_size, is_array

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # EXIF: these values swap height and width
Box = tuple[int, int, int, int]  # top, left, height, width


class BadImageError(ValueError):
    """It cannot be read as an image of the wanted kind: its name and why."""

    def __init__(self, name: str, reason: object) -> None:
        super().__init__(f"{name} cannot be read as an image ({reason}); mend or remove the file")
        self.name, self.reason = name, str(reason)


@dataclass(frozen=True)
class Encoded:
    """An image whose header has been read. size: upright (height, width)."""

    content: bytes
    name: str
    channels: int
    size: tuple[int, int]


def opened(content: bytes, name: str, channels: int) -> Encoded:
    """Read the header alone. Raises BadImageError."""
    try:
        if is_array(content, name):
            return Encoded(content, name, channels, array_size(content, name, channels))
        if channels not in MODES:
            raise ValueError(f"image files have 1, 3 or 4 channels, not {channels}; use .npy arrays")
        with Image.open(io.BytesIO(content)) as image:
            turned = image.getexif().get(ORIENTATION) in TURNED
            return Encoded(content, name, channels, (image.width, image.height) if turned else image.size[::-1])
    except Exception as error:
        raise BadImageError(name, error) from error


def decoded(image: Encoded) -> UInt8[np.ndarray, "H W C"]:
    """All of it. Raises BadImageError."""
    try:
        read = image.content, image.name
        array = array_pixels(*read, image.channels) if is_array(*read) else _pixels(image)
    except Exception as error:
        raise BadImageError(image.name, error) from error
    return array[:, :, None] if array.ndim == 2 else array


def view(image: Encoded, box: Box, shape: tuple[int, int]) -> UInt8[np.ndarray, "h w C"]:
    """The box, resized to `shape`. Raises BadImageError."""
    return resized(decoded(image), box, shape)


def resized(
    array_HWC: UInt8[np.ndarray, "H W C"], box: Box, shape: tuple[int, int]
) -> UInt8[np.ndarray, "h w C"]:  # fmt: skip
    """Pillow's antialiased bicubic in torch's vectorised code: within 2 of 255 of Pillow, equal in 99 % of pixels."""
    top, left, height, width = box
    cut = torch.from_numpy(array_HWC[top : top + height, left : left + width])
    if (height, width) == shape:
        return cut.numpy()
    out = interpolate(cut.permute(2, 0, 1)[None], size=shape, mode="bicubic", antialias=True)
    return out[0].permute(1, 2, 0).numpy()


def _pixels(encoded: Encoded) -> np.ndarray:
    with Image.open(io.BytesIO(encoded.content)) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode == "F":  # Pillow would clip 0..1 to black
            raise ValueError("its pixels are floating point; save it as 8 or 16 bits, or as a .npy array in [0, 1]")
        if upright.mode.startswith("I"):  # Pillow would clip 16 bits at 255: nearly all white
            upright = Image.fromarray((np.asarray(upright) // 257).clip(0, 255).astype(np.uint8))
        # a copy: torch warns of arrays that cannot be written
        return np.array(upright.convert(MODES[encoded.channels]))
