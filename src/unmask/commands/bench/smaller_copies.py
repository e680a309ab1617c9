"""Make smaller copies of images, to measure what smaller files would bring."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from unmask.data.images.decoding import decode_image, resize_crop
from unmask.data.images.depth import to_bytes
from unmask.data.loading.folders import StoredImages

# the usual short side of stored images over the size of crops: 8/7
STORED_TO_CROP = 256 / 224
QUALITY = 90  # of JPEG


@dataclass(frozen=True)
class ListStore:
    """Serve contents (encoded bytes or pixels) from a list."""

    contents: Sequence[Any]
    suffix: str

    def __len__(self) -> int:
        return len(self.contents)

    def name(self, i: int) -> str:
        return f"{i}{self.suffix}"

    def read(self, i: int) -> Any:
        return self.contents[i]


def make_smaller_copies(
    split: StoredImages, crop_size: int, ids: list[int], folder: Path
) -> tuple[StoredImages, StoredImages]:
    """Copy images so that their short side is 8/7 of the crops.

    Returns them as JPEGs in memory and as pixels in a memory map in `folder`.
    """
    short_side = round(STORED_TO_CROP * crop_size)
    images = [_shrink(split, i, short_side) for i in ids]
    # JPEG has no fourth channel
    file_format = "JPEG" if split.channels < 4 else "PNG"
    encoded = [_encode(image_HWC, file_format) for image_HWC in images]
    # a memory map, as the raw container has: its pages come from the system's cache
    path = folder / "pixels"
    path.write_bytes(b"".join(image.tobytes() for image in images))
    flat = np.memmap(path, dtype=np.uint8, mode="c")
    pixels = []
    start = 0
    for image_HWC in images:
        end = start + image_HWC.size
        pixels.append(flat[start:end].reshape(image_HWC.shape))
        start = end
    no_labels_N = torch.full((len(ids),), -1)
    return (
        StoredImages(ListStore(encoded, ".jpg"), no_labels_N, split.channels),
        StoredImages(ListStore(pixels, ""), no_labels_N, split.channels),
    )


def _shrink(split: StoredImages, i: int, short_side: int) -> UInt8[np.ndarray, "h w C"]:
    """Return an image resized to the short side; smaller ones are stretched to it."""
    # the copies are JPEGs
    image_HWC = to_bytes(decode_image(split.read_header(i)))
    height, width = image_HWC.shape[:2]
    scale = min(1.0, short_side / min(height, width))
    # max: rounding must not make the short side a pixel shorter
    shape = (
        max(short_side, round(scale * height)),
        max(short_side, round(scale * width)),
    )
    return np.ascontiguousarray(resize_crop(image_HWC, (0, 0, height, width), shape))


def _encode(image_HWC: UInt8[np.ndarray, "H W C"], file_format: str) -> bytes:
    file = io.BytesIO()
    # Pillow wants grey images without an axis for channels
    Image.fromarray(image_HWC.squeeze()).save(file, file_format, quality=QUALITY)
    return file.getvalue()
