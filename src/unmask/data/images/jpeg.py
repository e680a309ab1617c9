"""Decode regions of JPEGs by the fastest decoder that is installed.

Each decoder gives exactly the pixels that Pillow would give. Files that not all of
them decode alike are left to Pillow: CMYK, RGB without luma, unusual chroma sampling,
12 bits, damaged files.
"""

import re
from dataclasses import dataclass

import numpy as np
import simplejpeg
from jaxtyping import UInt8

from unmask.data.images import native

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
class Header:
    """size: (height, width) as stored. may_be_rotated: it may hold an orientation."""

    size: tuple[int, int]
    components: int
    progressive: bool
    may_be_rotated: bool


def parse_header(content: bytes) -> Header | None:
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


def _parse_frame(marker: int, fields: bytes, may_be_rotated: bool) -> Header | None:
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
    return Header((height, width), components, marker == PROGRESSIVE, may_be_rotated)


def decode_region(
    content: bytes, header: Header, box: Box, scale: int = 1
) -> UInt8[np.ndarray, "h w C"] | None:
    """Decode the box, which counts pixels of the image at 1/scale.

    The channels are those that the file stores. Returns None if Pillow should decide.
    """
    decode = native.region_decoder()
    if decode:
        return decode(content, header.size, box, header.components, scale)
    top, left, height, width = box
    try:
        image = _decode_with_simplejpeg(content, header, scale)
    # the decoder complains about damage, or about something it does not support
    except ValueError:
        return None
    return None if image is None else image[top : top + height, left : left + width]


def _decode_with_simplejpeg(
    content: bytes, header: Header, scale: int
) -> UInt8[np.ndarray, "H W C"] | None:
    height, width = header.size
    is_grey = header.components == 1
    if header.progressive:
        return None
    *size, colourspace, subsampling = simplejpeg.decode_jpeg_header(content)[:4]
    if tuple(size) != header.size or colourspace != ("Gray" if is_grey else "YCbCr"):
        return None
    if not is_grey and subsampling not in SUBSAMPLINGS:
        return None
    min_height, min_width = -(-height // scale), -(-width // scale)
    image = simplejpeg.decode_jpeg(
        content,
        "Gray" if is_grey else "RGB",
        fastdct=False,
        fastupsample=False,
        min_height=min_height,
        min_width=min_width,
        min_factor=1,
    )
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
