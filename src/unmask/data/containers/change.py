"""Images made smaller when they are stored: JPEG of a given short side and quality, or raw pixels."""

import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from unmask.data.images.arrays import Content, is_array


@dataclass(frozen=True)
class Change:
    """short_side: never made larger; None: as they are. channels: of raw pixels; None: JPEG of that quality."""

    short_side: int | None
    quality: int | None
    channels: int | None = None

    @property
    def copies(self) -> bool:
        return (
            self.short_side is None and self.quality is None and self.channels is None
        )

    def __call__(self, content: Content, name: str) -> Content:
        """Raises whatever reading a bad image raises. Arrays cannot be JPEG: they are left as they are."""
        if self.copies:
            return content
        if self.channels is not None:
            return self._pixels(content, name, self.channels)
        if isinstance(content, bytes) and is_array(content, name):
            return content
        image = self._smaller(upright(content))
        with io.BytesIO() as file:
            image.convert("L" if image.mode in ("L", "1") else "RGB").save(
                file, "JPEG", quality=self.quality
            )
            return file.getvalue()

    def _pixels(
        self, content: Content, name: str, channels: int
    ) -> UInt8[np.ndarray, "h w C"]:
        """As training reads them."""
        # not before torch is needed
        from unmask.data.images.decoding import decoded, opened, resized_by_pillow

        pixels = decoded(opened(content, name, channels))
        height, width = pixels.shape[:2]
        if self.short_side is None or min(height, width) <= self.short_side:
            return pixels
        scale = self.short_side / min(height, width)
        shape = (
            max(self.short_side, round(height * scale)),
            max(self.short_side, round(width * scale)),
        )
        return resized_by_pillow(pixels, (0, 0, height, width), shape)

    def _smaller(self, image: Image.Image) -> Image.Image:
        if self.short_side is None or min(image.size) <= self.short_side:
            return image
        # palettes are no colours that have a mean
        if image.mode in ("P", "1", "CMYK", "LA", "PA"):
            image = image.convert("RGBA" if image.mode in ("LA", "PA") else "RGB")
        scale = self.short_side / min(image.size)
        width, height = (
            max(self.short_side, round(side * scale)) for side in image.size
        )
        return image.resize((width, height), Image.Resampling.BICUBIC)


def upright(content: bytes | UInt8[np.ndarray, "H W C"]) -> Image.Image:
    """Turned as EXIF says, 16 bits scaled to 8."""
    if not isinstance(content, bytes):
        return Image.fromarray(content[:, :, 0] if content.shape[2] == 1 else content)
    if not content:
        raise ValueError("it is empty")
    with Image.open(io.BytesIO(content)) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode == "F":
            raise ValueError("its pixels are floating point")
        if image.mode.startswith("I"):
            return Image.fromarray(
                (np.asarray(image) // 257).clip(0, 255).astype(np.uint8)
            )
        image.load()
        return image
