"""Decode one image: read its header, choose a crop box, then decode and resize that.

Images are decoded upright (EXIF orientation), with the wanted number of channels: bytes
of those of 8 bits, shares of their range (`depth`) of all others. The modes
(`data.decode`):

- `fast` decodes only the crop box of a JPEG, by the fastest decoder that is installed;
- `scaled` decodes large crop boxes at a half, a quarter or an eighth of their size;
- `reference` uses Pillow alone;
- `nvjpeg` leaves JPEGs to the training device; other formats are decoded as by `fast`.

Each decoder gives exactly the pixels that Pillow would give. JPEGs that not all of them
decode alike are left to Pillow: CMYK, RGB without luma, unusual chroma sampling, 12
bits, damaged files.
"""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import simplejpeg
import torch
from jaxtyping import Shaped, UInt8
from PIL import Image
from torch.nn.functional import interpolate

from unmask.data.images import native
from unmask.data.images.arrays import Content, is_array, read_array, read_array_size
from unmask.data.images.depth import Pixels, Ranges, to_shares
from unmask.data.images.pillow import (
    MAX_PIXELS,
    PILLOW_MODES,
    decode_with_pillow,
    read_upright_size,
    resize_with_pillow,
)
from unmask.data.images.unreadable import BadImageError, short_reason

DecodeMode = Literal["fast", "scaled", "reference", "nvjpeg"]
Box = tuple[int, int, int, int]  # top, left, height, width

# the second byte of JPEG's markers, after 0xFF (ITU-T T.81, Table B.1)
SEQUENTIAL = (0xC0, 0xC1)
PROGRESSIVE = 0xC2
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
SCAN = 0xDA
EXIF = 0xE1
PADDING = 0xFF
START_OF_IMAGE = b"\xff\xd8"
END_OF_IMAGE = b"\xff\xd9"

# EXIF's orientation tag in either byte order, or its XMP form
ORIENTATION = re.compile(rb"\x01\x12|\x12\x01|tiff:Orientation")
# larger images go to Pillow, which knows about decompression bombs
MAX_FAST_PIXELS = 2**26
SUBSAMPLINGS = ("444", "422", "420")
SCALES = (8, 4, 2)


@dataclass(frozen=True)
class JpegHeader:
    """size: (height, width) as stored. may_be_rotated: it may hold an orientation."""

    size: tuple[int, int]
    components: int
    progressive: bool
    may_be_rotated: bool


@dataclass(frozen=True)
class EncodedImage:
    """An image whose header has been read, but not its pixels.

    size: (height, width) once upright. header: of a JPEG that may be decoded by
    something other than Pillow, else None. ranges: data.range.
    """

    content: Content
    name: str
    channels: int
    size: tuple[int, int]
    header: JpegHeader | None = None
    ranges: Ranges | None = None


def read_header(
    content: Content, name: str, channels: int, ranges: Ranges | None = None
) -> EncodedImage:
    """Read the header only, to know the size. Raises BadImageError."""
    try:
        size, header = _parse_header(content, name, channels)
    # a full memory is not the file's fault
    except MemoryError:
        raise
    except Exception as error:
        raise BadImageError(name, short_reason(error)) from error
    return EncodedImage(content, name, channels, size, header, ranges)


def _parse_header(
    content: Content, name: str, channels: int
) -> tuple[tuple[int, int], JpegHeader | None]:
    """Return the size once upright, and the JPEG header if the fast decoders apply."""
    header = None
    if channels in (1, 3) and isinstance(content, bytes):
        header = parse_jpeg_header(content)
    if header and not header.may_be_rotated:
        return header.size, header
    if not len(content):
        raise ValueError("it is empty")
    if not isinstance(content, bytes) or is_array(content, name):
        return _check_size(read_array_size(content, name, channels)), None
    if channels not in PILLOW_MODES:
        raise ValueError(
            f"image files have 1, 3 or 4 channels, not {channels}; use .npy arrays"
        )
    size, must_turn = read_upright_size(content)
    # the fast decoders do not turn images
    return _check_size(size), None if must_turn else header


def _check_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the size. Raises ValueError if it claims too many pixels."""
    height, width = size
    if height * width > MAX_PIXELS:
        raise ValueError(
            f"its {height} x {width} pixels are more than the {MAX_PIXELS:,} that are"
            " allowed"
        )
    return size


def parse_jpeg_header(content: bytes) -> JpegHeader | None:
    """Parse the header of a complete 8-bit JPEG of grey or colour.

    Returns None for anything else, and for a file whose end is missing. All segments
    up to the scan are read, since EXIF may follow the frame.
    """
    if content[:2] != START_OF_IMAGE or content[-2:] != END_OF_IMAGE:
        return None
    position = 2
    may_be_rotated = False
    frame_marker, frame = 0, b""
    while position + 9 < len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == PADDING:
            position += 1
            continue
        # the length counts its own two bytes, but not the marker's
        length = content[position + 2] << 8 | content[position + 3]
        body = position + 4
        if marker == EXIF and ORIENTATION.search(content[body : position + 2 + length]):
            may_be_rotated = True
        if marker in FRAMES:
            frame_marker, frame = marker, content[body : body + 6]
        if marker == SCAN:
            if len(frame) != 6:
                return None
            return _parse_frame(frame_marker, frame, may_be_rotated)
        if length < 2:
            return None
        position += 2 + length
    return None


def _parse_frame(marker: int, fields: bytes, may_be_rotated: bool) -> JpegHeader | None:
    """Parse the frame's bits, height, width and number of components."""
    bits = fields[0]
    height = fields[1] << 8 | fields[2]
    width = fields[3] << 8 | fields[4]
    components = fields[5]
    if marker not in SEQUENTIAL and marker != PROGRESSIVE:
        return None
    if bits != 8 or components not in (1, 3):
        return None
    if not 0 < height * width <= MAX_FAST_PIXELS:
        return None
    return JpegHeader(
        (height, width), components, marker == PROGRESSIVE, may_be_rotated
    )


def decode_image(image: EncodedImage) -> Pixels:
    """Decode the whole image. Raises BadImageError."""
    return to_pixels(decode_values(image), image)


def decode_values(image: EncodedImage) -> Shaped[np.ndarray, "H W C"]:
    """Decode the whole image to the values that the file holds.

    Raises BadImageError.
    """
    pixels = decode_region(image, (0, 0, *image.size)) if image.header else None
    return _decode_whole(image) if pixels is None else pixels


def decode_by_reference(image: EncodedImage) -> Pixels:
    """Decode the whole image by Pillow, or read it if it is an array.

    Raises BadImageError.
    """
    return to_pixels(_decode_whole(image), image)


def to_pixels(values: Shaped[np.ndarray, "H W C"], image: EncodedImage) -> Pixels:
    """Return bytes as they are, and other values as shares. Raises BadImageError."""
    if image.ranges is None and values.dtype == np.uint8:
        return values
    try:
        return to_shares(values, image.ranges)
    except ValueError as error:
        raise BadImageError(image.name, short_reason(error)) from error


def decode_crop(
    image: EncodedImage, box: Box, shape: tuple[int, int], decode: DecodeMode = "fast"
) -> Pixels:
    """Decode the crop box and resize it to `shape`. Raises BadImageError."""
    if image.header and decode != "reference":
        # progressive files are read as a whole anyway, and not every decoder scales
        # them
        may_scale = decode == "scaled" and not image.header.progressive
        scale = choose_scale(box, shape) if may_scale else 1
        region, box_in_region = scaled_box(box, image.size, scale)
        values = decode_region(image, region, scale)
        if values is not None:
            pixels = to_pixels(values, image)
            if scale == 1:
                return resize_crop(pixels, (0, 0, *pixels.shape[:2]), shape)
            # a scaled box lies between pixels; only Pillow resizes from there, and
            # rounding the box would shift the picture
            return resize_with_pillow(pixels, box_in_region, shape)
    return resize_crop(decode_by_reference(image), box, shape, decode)


def resize_crop(
    array_HWC: Pixels, box: Box, shape: tuple[int, int], decode: DecodeMode = "fast"
) -> Pixels:
    """Cut out the box and resize it by an antialiased bicubic.

    It is Pillow's for `reference`, otherwise torch's, which is vectorised. There the
    width comes first. Pillow with its passes in that order differs by at most 2 of 255.
    """
    top, left, height, width = box
    crop_HWC = array_HWC[top : top + height, left : left + width]
    if decode == "reference":
        return resize_with_pillow(crop_HWC, (0, 0, width, height), shape)
    if (height, width) == shape:
        return crop_HWC
    # the batch axis must come before the permutation: only then does torch see the
    # channels-last layout, and keeps it
    batch = torch.from_numpy(crop_HWC)[None].permute(0, 3, 1, 2)
    out = interpolate(batch, size=shape, mode="bicubic", antialias=True)
    if out.is_floating_point():
        # the kernel overshoots at edges
        out = out.clamp_(0, 1)
    return out.permute(0, 2, 3, 1)[0].numpy()


def decode_region(
    image: EncodedImage, box: Box, scale: int = 1
) -> UInt8[np.ndarray, "h w C"] | None:
    """Decode a box of a JPEG; it counts pixels of the image at 1/scale.

    Returns None if the decoder complains about the file; Pillow then decides.
    """
    content, header = image.content, image.header
    assert header is not None
    assert isinstance(content, bytes)
    decode = native.region_decoder()
    if decode:
        pixels = decode(content, header.size, box, header.components, scale)
    else:
        pixels = decode_with_simplejpeg(content, header, scale)
        if pixels is not None:
            top, left, height, width = box
            pixels = pixels[top : top + height, left : left + width]
    if pixels is None or pixels.shape[2] == image.channels:
        return pixels
    if image.channels == 3:
        return np.repeat(pixels, 3, axis=2)
    # Pillow computes grey from RGB, which is not quite the luma that the JPEG stores
    return np.array(Image.fromarray(pixels).convert("L"))[:, :, None]


def decode_with_simplejpeg(
    content: bytes, header: JpegHeader, scale: int
) -> UInt8[np.ndarray, "H W C"] | None:
    """Decode a whole JPEG in its own channels; None if Pillow should decide."""
    height, width = header.size
    is_grey = header.components == 1
    if header.progressive:
        return None
    min_height, min_width = -(-height // scale), -(-width // scale)
    try:
        *size, colourspace, subsampling = simplejpeg.decode_jpeg_header(content)[:4]
        if tuple(size) != header.size:
            return None
        if colourspace != ("Gray" if is_grey else "YCbCr"):
            return None
        if not is_grey and subsampling not in SUBSAMPLINGS:
            return None
        image = simplejpeg.decode_jpeg(
            content,
            "Gray" if is_grey else "RGB",
            fastdct=False,
            fastupsample=False,
            min_height=min_height,
            min_width=min_width,
            min_factor=1,
        )
    # it complains about damage, or about something that it does not support
    except ValueError:
        return None
    return image if image.shape[:2] == (min_height, min_width) else None


def choose_scale(box: Box, shape: tuple[int, int]) -> int:
    """Return the largest of 8, 4, 2 at which the box still has `shape` pixels; or 1."""
    for scale in SCALES:
        if box[2] >= scale * shape[0] and box[3] >= scale * shape[1]:
            return scale
    return 1


def scaled_box(
    box: Box, size: tuple[int, int], scale: int
) -> tuple[Box, tuple[float, float, float, float]]:
    """Return the whole pixels that the box touches at 1/scale, and the box in them.

    The box in them is (left, top, right, bottom), as Pillow wants it.
    """
    # a scaled image has ceil(side / scale) pixels
    ends = [
        min(-(-side // scale), -(-(start + length) // scale))
        for side, start, length in zip(size, box[:2], box[2:], strict=True)
    ]
    top, left = box[0] // scale, box[1] // scale
    height, width = ends[0] - top, ends[1] - left
    inside = (
        box[1] / scale - left,
        box[0] / scale - top,
        min(width, (box[1] + box[3]) / scale - left),
        min(height, (box[0] + box[2]) / scale - top),
    )
    return (top, left, height, width), inside


def _decode_whole(image: EncodedImage) -> Shaped[np.ndarray, "H W C"]:
    """Decode the whole image by Pillow, or read it if it is an array."""
    content, name = image.content, image.name
    try:
        if not isinstance(content, bytes) or is_array(content, name):
            array = read_array(content, name, image.channels)
        else:
            array = decode_with_pillow(content, image.channels)
        if array.shape[:2] != image.size:
            claimed = " x ".join(map(str, image.size))
            actual = " x ".join(map(str, array.shape[:2]))
            raise ValueError(f"its header says {claimed} pixels, it has {actual}")
    except MemoryError:
        raise
    except Exception as error:
        raise BadImageError(name, short_reason(error)) from error
    return array[:, :, None] if array.ndim == 2 else array
