"""From the bytes of an image to a view of it: the header first, then the crop is chosen, then it is decoded, resized.

Decoding is upright (EXIF), of the wanted number of channels, with 16-bit grey scaled, not clipped. `fast` decodes of a
JPEG what the crop needs, to Pillow's very pixels; `scaled` decodes large crops at a half, a quarter or an eighth;
`reference` is Pillow alone; `nvjpeg` leaves JPEGs to the training device, and the others are decoded as by `fast`.
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
from unmask.data.images.arrays import Content, array_pixels, array_size, is_array
from unmask.data.images.jpeg import Box
from unmask.data.images.unreadable import MAX_PIXELS, BadImageError, reason_of

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # EXIF: these values swap height and width
UPRIGHT = dict(
    enumerate(
        (
            Image.Transpose.FLIP_LEFT_RIGHT,
            Image.Transpose.ROTATE_180,
            Image.Transpose.FLIP_TOP_BOTTOM,
            Image.Transpose.TRANSPOSE,
            Image.Transpose.ROTATE_270,
            Image.Transpose.TRANSVERSE,
            Image.Transpose.ROTATE_90,
        ),
        start=2,
    )
)
Decode = Literal["fast", "scaled", "reference", "nvjpeg"]


def hush() -> None:
    """What Pillow thinks of odd files it would say in each worker again: of damaged EXIF, or of an image of half the
    size that it refuses.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")


hush()


@dataclass(frozen=True)
class Encoded:
    """An image whose header has been read. size: upright (height, width).

    header: of a JPEG that others than Pillow may decode.
    """

    content: Content
    name: str
    channels: int
    size: tuple[int, int]
    header: jpeg.Header | None = None


def opened(content: Content, name: str, channels: int) -> Encoded:
    """Read the header alone. Raises BadImageError."""
    try:
        if not len(content):
            raise ValueError("it is empty")
        if not isinstance(content, bytes) or is_array(content, name):
            return Encoded(
                content,
                name,
                channels,
                within_bounds(*array_size(content, name, channels)),
            )
        if channels not in MODES:
            raise ValueError(
                f"image files have 1, 3 or 4 channels, not {channels}; use .npy arrays"
            )
        found = jpeg.header(content) if channels in (1, 3) else None
        if found and not found.perhaps_turned:
            return Encoded(content, name, channels, found.size, found)
        with Image.open(io.BytesIO(content)) as image:
            turn = orientation(image)
            width, height = image.size[::-1] if turn in TURNED else image.size
            return Encoded(
                content,
                name,
                channels,
                within_bounds(height, width),
                None if turn in UPRIGHT else found,
            )
    except MemoryError:  # no fault of the file's
        raise
    except Exception as error:
        raise BadImageError(name, reason_of(error)) from error


def within_bounds(height: int, width: int) -> tuple[int, int]:
    """The size. Raises ValueError where a header tells of more pixels than any decoder here is to make."""
    if height * width > MAX_PIXELS:
        raise ValueError(
            f"its {height} x {width} pixels are more than the {MAX_PIXELS:,} that are"
            " allowed"
        )
    return height, width


def decoded(image: Encoded) -> UInt8[np.ndarray, "H W C"]:
    """All of it. Raises BadImageError."""
    whole = region(image, (0, 0, *image.size)) if image.header else None
    return _by_pillow(image) if whole is None else whole


def view(
    image: Encoded, box: Box, shape: tuple[int, int], decode: Decode = "fast"
) -> UInt8[np.ndarray, "h w C"]:
    """The box, resized to `shape`. Raises BadImageError."""
    if decode == "reference":
        return resized_by_pillow(_by_pillow(image), box, shape)
    if image.header:
        # of progressive files all is read anyway, and not every decoder scales them
        scale = (
            jpeg.scale_for(box, shape)
            if decode == "scaled" and not image.header.progressive
            else 1
        )
        whole, inside = jpeg.scaled_box(box, image.size, scale)
        part = region(image, whole, scale)
        if part is not None:
            # a box between pixels is Pillow's to cut: to round it would move the
            # picture
            return (
                resized(part, (0, 0, *part.shape[:2]), shape)
                if scale == 1
                else _pillow_resized(part, shape, inside)
            )
    return resized(_by_pillow(image), box, shape)


def resized(
    array_HWC: UInt8[np.ndarray, "H W C"], box: Box, shape: tuple[int, int]
) -> UInt8[np.ndarray, "h w C"]:
    """Pillow's antialiased bicubic, rows first, in torch's vectorised code: within 2 of 255 of Pillow in that order."""
    top, left, height, width = box
    cut = torch.from_numpy(array_HWC[top : top + height, left : left + width])
    if (height, width) == shape:
        return cut.numpy()
    # as a batch of one first: so torch knows that channels come last, and leaves them
    # there
    out = interpolate(
        cut[None].permute(0, 3, 1, 2), size=shape, mode="bicubic", antialias=True
    )
    return out.permute(0, 2, 3, 1)[0].numpy()


def resized_by_pillow(
    array_HWC: UInt8[np.ndarray, "H W C"], box: Box, shape: tuple[int, int]
) -> UInt8[np.ndarray, "h w C"]:
    """Channel by channel where Pillow has no such kind of image, and of RGBA, whose colours it weights by opacity."""
    top, left, height, width = box
    return _pillow_resized(array_HWC[top : top + height, left : left + width], shape)


def _pillow_resized(
    cut_HWC: UInt8[np.ndarray, "H W C"],
    shape: tuple[int, int],
    inside: tuple[float, float, float, float] | None = None,
) -> UInt8[np.ndarray, "h w C"]:
    colours = cut_HWC.shape[2] == 3
    parts = [cut_HWC] if colours else list(np.moveaxis(cut_HWC, 2, 0))
    images = [Image.fromarray(np.ascontiguousarray(part)) for part in parts]
    out = [
        np.asarray(image.resize(shape[::-1], Image.Resampling.BICUBIC, inside))
        for image in images
    ]
    return out[0] if colours else np.stack(out, axis=2)


def region(
    image: Encoded, box: Box, scale: int = 1
) -> UInt8[np.ndarray, "h w C"] | None:
    """By the fast decoders, to Pillow's pixels; None where one complains: then Pillow decides."""
    assert image.header is not None
    assert isinstance(image.content, bytes)
    part = jpeg.region(image.content, image.header, box, scale)
    if part is None or part.shape[2] == image.channels:
        return part
    if image.channels == 3:
        return np.repeat(part, 3, axis=2)
    # Pillow's grey is not the JPEG's luma
    return np.array(Image.fromarray(part).convert("L"))[:, :, None]


def _by_pillow(image: Encoded) -> UInt8[np.ndarray, "H W C"]:
    """Or as an array, where it is one."""
    try:
        read = image.content, image.name
        array = (
            array_pixels(*read, image.channels) if is_array(*read) else _pixels(image)
        )
        if array.shape[:2] != image.size:
            wanted, got = (
                " x ".join(map(str, size)) for size in (image.size, array.shape[:2])
            )
            raise ValueError(f"its header says {wanted} pixels, it has {got}")
    except MemoryError:
        raise
    except Exception as error:
        raise BadImageError(image.name, reason_of(error)) from error
    return array[:, :, None] if array.ndim == 2 else array


def _pixels(encoded: Encoded) -> np.ndarray:
    assert isinstance(encoded.content, bytes)
    with Image.open(io.BytesIO(encoded.content)) as image:
        turn = UPRIGHT.get(orientation(image))
        upright = image if turn is None else image.transpose(turn)
        if upright.mode == "F":  # Pillow would clip 0..1 to black
            raise ValueError(
                "its pixels are floating point; save it as 8 or 16 bits, or as a .npy"
                " array in [0, 1]"
            )
        # Pillow would clip 16 bits at 255: nearly all white
        if upright.mode.startswith("I"):
            upright = Image.fromarray(
                (np.asarray(upright) // 257).clip(0, 255).astype(np.uint8)
            )
        # a copy: torch warns of arrays that cannot be written
        return np.array(upright.convert(MODES[encoded.channels]))


def orientation(image: Image.Image) -> int:
    """EXIF's, 1 (upright) where there is none or it is damaged; of what stands before the pixels."""
    # which Pillow turns as it loads them, and its size is the upright one before
    if image.format == "TIFF":
        return 1
    try:
        # of a PNG without EXIF its own getexif would decode all pixels to look behind
        # them
        return int(Image.Image.getexif(image).get(ORIENTATION, 1))
    except Exception:
        return 1
