"""Images made smaller when they are stored: as JPEG, as raw pixels, or without loss.

Those of more than 8 bits keep them: JPEG has 8, so they become deflated TIFFs.
"""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageOps

from unmask.data.images.arrays import Content, is_array
from unmask.data.images.pillow import decode_deep, resize_with_pillow


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
        is asked for they are copied, and so are images of more than 8 bits, unless they
        become smaller.
        """
        if self.keeps_bytes:
            return content
        if self.channels is not None:
            return self._to_pixels(content, name, self.channels)
        if isinstance(content, bytes) and is_array(content, name):
            return content
        values_HWC = _deep_values(content)
        if values_HWC is not None:
            smaller_HWC = self._shrink_values(values_HWC)
            is_same = smaller_HWC is values_HWC and isinstance(content, bytes)
            return content if is_same else write_tiff(smaller_HWC)
        image = self._shrink(open_upright(content))
        mode = "L" if image.mode in ("L", "1") else "RGB"
        with io.BytesIO() as file:
            image.convert(mode).save(file, "JPEG", quality=self.quality)
            return file.getvalue()

    def _to_pixels(
        self, content: Content, name: str, channels: int
    ) -> Shaped[np.ndarray, "h w C"]:
        """Decode exactly as training does, to the values of the file, and resize."""
        # imported here: only raw pixels need torch
        from unmask.data.images.decoding import decode_values, read_header

        return self._shrink_values(decode_values(read_header(content, name, channels)))

    def _shrink_values(
        self, values_HWC: Shaped[np.ndarray, "H W C"]
    ) -> Shaped[np.ndarray, "h w C"]:
        """Return the values themselves where they are small enough."""
        height, width = values_HWC.shape[:2]
        if self.short_side is None or min(height, width) <= self.short_side:
            return values_HWC
        shape = (
            self._scale_side(height, min(height, width)),
            self._scale_side(width, min(height, width)),
        )
        return resize_values(values_HWC, shape)

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


def _deep_values(content: Content) -> Shaped[np.ndarray, "H W C"] | None:
    """Return the values of an image of more than 8 bits, None of others."""
    if isinstance(content, bytes):
        return decode_deep(content) if content else None
    return None if content.dtype == np.uint8 else content


def resize_values(
    values_HWC: Shaped[np.ndarray, "H W C"], shape: tuple[int, int]
) -> Shaped[np.ndarray, "h w C"]:
    """Resize by Pillow's bicubic, and round to the type that the values have."""
    dtype = values_HWC.dtype
    if dtype == np.uint8:
        height, width = values_HWC.shape[:2]
        return resize_with_pillow(values_HWC, (0, 0, width, height), shape)
    size = shape[::-1]
    planes = [
        Image.fromarray(plane.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
        for plane in np.moveaxis(values_HWC, 2, 0)
    ]
    out_hwC = np.stack([np.asarray(plane) for plane in planes], axis=2)
    # the kernel overshoots at edges
    out_hwC = out_hwC.clip(values_HWC.min(), values_HWC.max())
    is_integer = np.issubdtype(dtype, np.integer)
    return (np.rint(out_hwC) if is_integer else out_hwC).astype(dtype)


def write_tiff(values_HWC: Shaped[np.ndarray, "H W C"]) -> bytes:
    """Encode without loss, in the type that the values have."""
    import tifffile

    file = io.BytesIO()
    settings: dict[str, Any] = {"photometric": "minisblack"}
    channels = values_HWC.shape[2]
    if channels > 1:
        settings = {"planarconfig": "contig"}
        settings["photometric"] = "rgb" if channels in (3, 4) else "minisblack"
    values = values_HWC if channels > 1 else values_HWC[:, :, 0]
    tifffile.imwrite(file, values, compression="zlib", metadata=None, **settings)
    return file.getvalue()


def open_upright(content: bytes | UInt8[np.ndarray, "H W C"]) -> Image.Image:
    """Decode with Pillow, turned as EXIF says. Raises ValueError for empty files."""
    if not isinstance(content, bytes):
        return Image.fromarray(content[:, :, 0] if content.shape[2] == 1 else content)
    if not content:
        raise ValueError("it is empty")
    with Image.open(io.BytesIO(content)) as opened:
        image = ImageOps.exif_transpose(opened)
        image.load()
        return image
