"""Regions of JPEGs by whichever decoder is there, with the very pixels that Pillow would decode.

What not all of them decode alike is left to Pillow: CMYK, RGB inside, odd sampling, 12 bits, damaged files.
"""

import re
from dataclasses import dataclass

import numpy as np
import simplejpeg
from jaxtyping import UInt8

from unmask.data.images import native

Box = tuple[int, int, int, int]  # top, left, height, width
SEQUENTIAL, PROGRESSIVE = (0xC0, 0xC1), 0xC2
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
SCAN, END, EXIF, FILL = 0xDA, b"\xff\xd9", 0xE1, 0xFF
ORIENTATION = re.compile(rb"\x01\x12|\x12\x01|tiff:Orientation")
# pixels; of what is larger Pillow is asked, which knows of decompression bombs
LARGEST = 2**26
SUBSAMPLINGS = ("444", "422", "420")
SCALES = (8, 4, 2)


@dataclass(frozen=True)
class Header:
    """size: (height, width) as stored. perhaps_turned: something in it may be an orientation."""

    size: tuple[int, int]
    components: int
    progressive: bool
    perhaps_turned: bool


def header(content: bytes) -> Header | None:
    """Of a whole JPEG of grey or colour, 8 bits; None of anything else, and where its end is missing.

    All up to the scan is looked at: EXIF may follow the frame.
    """
    if content[:2] != b"\xff\xd8" or content[-2:] != END:
        return None
    at, turned, frame = 2, False, b""
    while at + 9 < len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == FILL:
            at += 1
            continue
        length = content[at + 2] << 8 | content[at + 3]
        if marker == EXIF and ORIENTATION.search(content[at + 4 : at + 2 + length]):
            turned = True
        if marker in FRAMES:
            frame = content[at + 1 : at + 2] + content[at + 4 : at + 10]
        if marker == SCAN:
            return _frame(frame[0], frame[1:], turned) if len(frame) == 7 else None
        if length < 2:
            return None
        at += 2 + length
    return None


def _frame(marker: int, fields: bytes, turned: bool) -> Header | None:
    bits, height, width, components = (
        fields[0],
        fields[1] << 8 | fields[2],
        fields[3] << 8 | fields[4],
        fields[5],
    )
    known = marker in SEQUENTIAL or marker == PROGRESSIVE
    if (
        not known
        or bits != 8
        or components not in (1, 3)
        or not 0 < height * width <= LARGEST
    ):
        return None
    return Header((height, width), components, marker == PROGRESSIVE, turned)


def region(
    content: bytes, of: Header, box: Box, scale: int = 1
) -> UInt8[np.ndarray, "h w C"] | None:
    """The box, in pixels of the image at 1/scale, of as many channels as are stored; None: Pillow should decide."""
    decode = native.region()
    if decode:
        return decode(content, of.size, box, of.components, scale)
    top, left, height, width = box
    try:
        whole = _whole(content, of, scale)
    except ValueError:  # it complains: of damage, or of what it does not know
        return None
    return None if whole is None else whole[top : top + height, left : left + width]


def _whole(content: bytes, of: Header, scale: int) -> UInt8[np.ndarray, "H W C"] | None:
    (height, width), grey = of.size, of.components == 1
    found = simplejpeg.decode_jpeg_header(content)
    if (
        of.progressive
        or found[:2] != of.size
        or found[2] != ("Gray" if grey else "YCbCr")
    ):
        return None
    if not grey and found[3] not in SUBSAMPLINGS:
        return None
    least = -(-height // scale), -(-width // scale)
    whole = simplejpeg.decode_jpeg(
        content, "Gray" if grey else "RGB", False, False, *least, 1
    )
    return whole if whole.shape[:2] == least else None


def scale_for(box: Box, shape: tuple[int, int]) -> int:
    """The largest of 8, 4, 2 that leaves as many pixels as are wanted, or more; else 1."""
    return next(
        (
            scale
            for scale in SCALES
            if box[2] >= scale * shape[0] and box[3] >= scale * shape[1]
        ),
        1,
    )


def scaled_box(
    box: Box, size: tuple[int, int], scale: int
) -> tuple[Box, tuple[float, float, float, float]]:
    """The whole pixels at 1/scale that the box touches, and where in them it lies: left, top, right, bottom."""
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
