"""Decode one image: read its header, choose a crop box, then decode and resize that.

Images are decoded upright (EXIF orientation), with the wanted number of channels, and
16-bit grey is scaled to 8 bits rather than clipped. The modes (`data.decode`):

- `fast` decodes only the crop box of a JPEG, to exactly Pillow's pixels;
- `scaled` decodes large crop boxes at a half, a quarter or an eighth of their size;
- `reference` uses Pillow alone;
- `nvjpeg` leaves JPEGs to the training device; other formats are decoded as by `fast`.
"""

import io
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch.nn.functional import interpolate

from unmask.data.images import jpeg
from unmask.data.images.arrays import Content, is_array, read_array, read_array_size
from unmask.data.images.jpeg import Box
from unmask.data.images.unreadable import MAX_PIXELS, BadImageError, short_reason

DecodeMode = Literal["fast", "scaled", "reference", "nvjpeg"]
PILLOW_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by number of channels

# EXIF's tag; its values 1 to 8 say how the stored image must be turned or mirrored
ORIENTATION_TAG = 0x0112
SWAPS_SIDES = (5, 6, 7, 8)  # these values swap height and width
TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def silence_pillow() -> None:
    """Ignore Pillow's warnings about odd files, which each worker would repeat.

    It warns about damaged EXIF, and about images from half the size that it refuses.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")


silence_pillow()


@dataclass(frozen=True)
class EncodedImage:
    """An image whose header has been read, but not its pixels.

    size: (height, width) once upright. header: of a JPEG that may be decoded by
    something other than Pillow, else None.
    """

    content: Content
    name: str
    channels: int
    size: tuple[int, int]
    header: jpeg.Header | None = None


def read_header(content: Content, name: str, channels: int) -> EncodedImage:
    """Read the header only, to know the size. Raises BadImageError."""
    try:
        size, header = _parse_header(content, name, channels)
    # a full memory is not the file's fault
    except MemoryError:
        raise
    except Exception as error:
        raise BadImageError(name, short_reason(error)) from error
    return EncodedImage(content, name, channels, size, header)


def _parse_header(
    content: Content, name: str, channels: int
) -> tuple[tuple[int, int], jpeg.Header | None]:
    """Return the size once upright, and the JPEG header if the fast decoders apply."""
    if not len(content):
        raise ValueError("it is empty")
    if not isinstance(content, bytes) or is_array(content, name):
        return check_size(*read_array_size(content, name, channels)), None
    if channels not in PILLOW_MODES:
        raise ValueError(
            f"image files have 1, 3 or 4 channels, not {channels}; use .npy arrays"
        )
    header = jpeg.parse_header(content) if channels in (1, 3) else None
    if header and not header.may_be_rotated:
        return header.size, header
    with Image.open(io.BytesIO(content)) as image:
        orientation = exif_orientation(image)
        width, height = image.size
        if orientation in SWAPS_SIDES:
            width, height = height, width
    # the fast decoders do not turn images
    return check_size(height, width), None if orientation in TO_UPRIGHT else header


def check_size(height: int, width: int) -> tuple[int, int]:
    """Return (height, width). Raises ValueError if they claim too many pixels."""
    if height * width > MAX_PIXELS:
        raise ValueError(
            f"its {height} x {width} pixels are more than the {MAX_PIXELS:,} that are"
            " allowed"
        )
    return height, width


def decode_image(image: EncodedImage) -> UInt8[np.ndarray, "H W C"]:
    """Decode the whole image. Raises BadImageError."""
    if image.header:
        pixels = decode_jpeg_region(image, (0, 0, *image.size))
        if pixels is not None:
            return pixels
    return _decode_whole(image)


def decode_crop(
    image: EncodedImage, box: Box, shape: tuple[int, int], decode: DecodeMode = "fast"
) -> UInt8[np.ndarray, "h w C"]:
    """Decode the crop box and resize it to `shape`. Raises BadImageError."""
    if decode == "reference":
        return resize_crop_with_pillow(_decode_whole(image), box, shape)
    if image.header:
        # progressive files are read as a whole anyway, and not every decoder scales
        # them
        may_scale = decode == "scaled" and not image.header.progressive
        scale = jpeg.choose_scale(box, shape) if may_scale else 1
        region, box_in_region = jpeg.scaled_box(box, image.size, scale)
        pixels = decode_jpeg_region(image, region, scale)
        if pixels is not None and scale == 1:
            return resize_crop(pixels, (0, 0, *pixels.shape[:2]), shape)
        if pixels is not None:
            # a scaled box lies between pixels; only Pillow resizes from there, and
            # rounding the box would shift the picture
            return _resize_with_pillow(pixels, shape, box_in_region)
    return resize_crop(_decode_whole(image), box, shape)


def resize_crop(
    array_HWC: UInt8[np.ndarray, "H W C"], box: Box, shape: tuple[int, int]
) -> UInt8[np.ndarray, "h w C"]:
    """Cut out the box and resize it by torch's vectorised antialiased bicubic.

    The width comes first. Pillow with its passes in that order differs by at most 2 of
    255.
    """
    top, left, height, width = box
    crop = torch.from_numpy(array_HWC[top : top + height, left : left + width])
    if (height, width) == shape:
        return crop.numpy()
    # the batch axis must come before the permutation: only then does torch see the
    # channels-last layout, and keeps it
    batch = crop[None].permute(0, 3, 1, 2)
    out = interpolate(batch, size=shape, mode="bicubic", antialias=True)
    return out.permute(0, 2, 3, 1)[0].numpy()


def resize_crop_with_pillow(
    array_HWC: UInt8[np.ndarray, "H W C"], box: Box, shape: tuple[int, int]
) -> UInt8[np.ndarray, "h w C"]:
    """Cut out the box and resize it by Pillow's bicubic."""
    top, left, height, width = box
    crop = array_HWC[top : top + height, left : left + width]
    return _resize_with_pillow(crop, shape)


def _resize_with_pillow(
    crop_HWC: UInt8[np.ndarray, "H W C"],
    shape: tuple[int, int],
    box: tuple[float, float, float, float] | None = None,
) -> UInt8[np.ndarray, "h w C"]:
    """Resize the box (left, top, right, bottom; by default all) to `shape`."""
    is_rgb = crop_HWC.shape[2] == 3
    # Pillow has no images of other channel counts, and it would weight the colours of
    # RGBA by opacity: their channels are resized one by one
    parts = [crop_HWC] if is_rgb else list(np.moveaxis(crop_HWC, 2, 0))
    images = [Image.fromarray(np.ascontiguousarray(part)) for part in parts]
    resized = [
        np.asarray(image.resize(shape[::-1], Image.Resampling.BICUBIC, box))
        for image in images
    ]
    return resized[0] if is_rgb else np.stack(resized, axis=2)


def decode_jpeg_region(
    image: EncodedImage, box: Box, scale: int = 1
) -> UInt8[np.ndarray, "h w C"] | None:
    """Decode the box by a fast decoder, to exactly Pillow's pixels.

    Returns None if the decoder complains about the file; Pillow then decides.
    """
    assert image.header is not None
    assert isinstance(image.content, bytes)
    pixels = jpeg.decode_region(image.content, image.header, box, scale)
    if pixels is None or pixels.shape[2] == image.channels:
        return pixels
    if image.channels == 3:
        return np.repeat(pixels, 3, axis=2)
    # Pillow computes grey from RGB, which is not quite the luma that the JPEG stores
    return np.array(Image.fromarray(pixels).convert("L"))[:, :, None]


def _decode_whole(image: EncodedImage) -> UInt8[np.ndarray, "H W C"]:
    """Decode the whole image by Pillow, or read it if it is an array."""
    content, name = image.content, image.name
    try:
        if is_array(content, name):
            array = read_array(content, name, image.channels)
        else:
            array = _decode_with_pillow(image)
        if array.shape[:2] != image.size:
            claimed = " x ".join(map(str, image.size))
            actual = " x ".join(map(str, array.shape[:2]))
            raise ValueError(f"its header says {claimed} pixels, it has {actual}")
    except MemoryError:
        raise
    except Exception as error:
        raise BadImageError(name, short_reason(error)) from error
    return array[:, :, None] if array.ndim == 2 else array


def _decode_with_pillow(encoded: EncodedImage) -> np.ndarray:
    assert isinstance(encoded.content, bytes)
    with Image.open(io.BytesIO(encoded.content)) as image:
        transpose = TO_UPRIGHT.get(exif_orientation(image))
        upright = image if transpose is None else image.transpose(transpose)
        # Pillow would clip floats in [0, 1] to black
        if upright.mode == "F":
            raise ValueError(
                f"its pixels are floating point (mode {upright.mode}); save it as 8 or"
                " 16 bits, or as a .npy array in [0, 1]"
            )
        # Pillow would clip 16-bit values at 255: nearly all white
        if upright.mode.startswith("I"):
            scaled = (np.asarray(upright) // 257).clip(0, 255).astype(np.uint8)
            upright = Image.fromarray(scaled)
        # np.array copies: torch warns about arrays that cannot be written
        return np.array(upright.convert(PILLOW_MODES[encoded.channels]))


def exif_orientation(image: Image.Image) -> int:
    """Return EXIF's orientation; 1 (upright) if there is none or it is damaged.

    Only EXIF that comes before the pixels counts.
    """
    # Pillow turns TIFFs itself when it loads them, and reports the upright size
    if image.format == "TIFF":
        return 1
    try:
        # the base class's method: PNG's own getexif decodes all pixels to look for
        # EXIF behind them
        return int(Image.Image.getexif(image).get(ORIENTATION_TAG, 1))
    except Exception:
        return 1
