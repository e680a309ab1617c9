"""Images made smaller when they are stored: as JPEG, or as raw pixels."""

import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from unmask.data.images.arrays import Content, is_array


@dataclass(frozen=True)
class Transcode:
    """Store an image in another size or format.

    short_side: pixels; smaller images keep their size. None: all do.
    quality: of JPEG. channels: of raw pixels; None: JPEG. All None: bytes are copied.
    """

    short_side: int | None
    quality: int | None
    channels: int | None = None

    @property
    def keeps_bytes(self) -> bool:
        return (
            self.short_side is None and self.quality is None and self.channels is None
        )

    def __call__(self, content: Content, name: str) -> Content:
        """Return what is stored of an image.

        Raises whatever decoding a bad image raises. Arrays cannot be JPEG: where that
        is asked for they are copied.
        """
        if self.keeps_bytes:
            return content
        if self.channels is not None:
            return self._to_pixels(content, name, self.channels)
        if isinstance(content, bytes) and is_array(content, name):
            return content
        image = self._shrink(open_upright(content))
        mode = "L" if image.mode in ("L", "1") else "RGB"
        with io.BytesIO() as file:
            image.convert(mode).save(file, "JPEG", quality=self.quality)
            return file.getvalue()

    def _to_pixels(
        self, content: Content, name: str, channels: int
    ) -> UInt8[np.ndarray, "h w C"]:
        """Decode and resize exactly as training does."""
        # imported here: only raw pixels need torch
        from unmask.data.images.decoding import (
            decode_image,
            read_header,
            resize_crop,
        )

        pixels = decode_image(read_header(content, name, channels))
        height, width = pixels.shape[:2]
        if self.short_side is None or min(height, width) <= self.short_side:
            return pixels
        shape = (
            self._scale_side(height, min(height, width)),
            self._scale_side(width, min(height, width)),
        )
        return resize_crop(pixels, (0, 0, height, width), shape, "reference")

    def _shrink(self, image: Image.Image) -> Image.Image:
        if self.short_side is None or min(image.size) <= self.short_side:
            return image
        # Resizing averages pixels, but the mean of two palette indices is no colour.
        if image.mode in ("P", "1", "CMYK", "LA", "PA"):
            image = image.convert("RGBA" if image.mode in ("LA", "PA") else "RGB")
        shortest = min(image.size)
        width, height = (self._scale_side(side, shortest) for side in image.size)
        return image.resize((width, height), Image.Resampling.BICUBIC)

    def _scale_side(self, side: int, shortest: int) -> int:
        assert self.short_side is not None
        # rounding must not make the short side shorter than it should be
        return max(self.short_side, round(side * (self.short_side / shortest)))


def open_upright(content: bytes | UInt8[np.ndarray, "H W C"]) -> Image.Image:
    """Decode with Pillow, turned as EXIF says; 16 bits are scaled to 8.

    Raises ValueError for empty files and for floating-point pixels.
    """
    if not isinstance(content, bytes):
        return Image.fromarray(content[:, :, 0] if content.shape[2] == 1 else content)
    if not content:
        raise ValueError("it is empty")
    with Image.open(io.BytesIO(content)) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode == "F":
            raise ValueError(f"its pixels are floating point (mode {image.mode})")
        if image.mode.startswith("I"):
            # 65535 / 257 = 255
            eight_bits = (np.asarray(image) // 257).clip(0, 255).astype(np.uint8)
            return Image.fromarray(eight_bits)
        image.load()
        return image
