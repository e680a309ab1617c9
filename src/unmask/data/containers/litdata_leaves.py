"""Leaves of LitData's items that are no files: pixels, tensors and numbers.

Their headers and numbers of types are those of litdata.streaming.serializers.
"""

import struct
from math import prod

import numpy as np

from unmask.config.datasets import ClassKey
from unmask.data.containers.contents import type_code

PIXEL_FORMATS = ("pil", "numpy", "tensor")
# PIL's modes whose bytes are those of pixels: their channels and type
PIL_MODES = {"L": (1, "u1"), "RGB": (3, "u1"), "RGBA": (4, "u1"), "I;16": (1, "u2")}
# by LitData's number of the type
NUMPY_TYPES = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
TORCH_TYPES = {
    **dict.fromkeys((0, 1), "f4"),
    **dict.fromkeys((2, 3), "f8"),
    **dict.fromkeys((8, 9), "f2"),
    11: "u1",
    12: "i1",
    **dict.fromkeys((13, 14), "i2"),
    **dict.fromkeys((15, 16), "i4"),
    **dict.fromkeys((17, 18), "i8"),
    20: "u2",
}
# tensors of one dimension are stored without a header
FLAT_FORMATS = ("no_header_numpy", "no_header_tensor")
SHAPE_START = 8  # bytes of an array's type and number of axes

# height, width, channels (or any three axes), and `type_code`
PixelShape = tuple[int, int, int, int]


def read_pixel_header(content: bytes, kind: str) -> tuple[int, PixelShape]:
    """Return the bytes before the pixels, and what they are.

    Raises ValueError for pixels of another mode or type, or of too few bytes.
    """
    shape: tuple[int, ...]
    if kind == "pil":
        width, height, length = struct.unpack_from("<III", content)
        mode = content[12 : 12 + length].decode()
        if mode not in PIL_MODES:
            raise ValueError(f"PIL images of mode {mode}; save them as RGB")
        channels, name = PIL_MODES[mode]
        header, shape = 12 + length, (height, width, channels)
    else:
        header, shape, name = _read_array_header(content, kind)
        shape = (*shape, 1)[:3] if len(shape) == 2 else shape
    dtype = np.dtype(name)
    if len(shape) != 3 or header + prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"{kind} of shape {shape} in {len(content)} bytes")
    height, width, channels = shape
    return header, (height, width, channels, type_code(dtype))


def _read_array_header(content: bytes, kind: str) -> tuple[int, tuple[int, ...], str]:
    """Return the bytes of the header, the shape and the type."""
    # LitData writes arrays in the machine's order of bytes, and tensors in the other
    order = ">" if kind == "tensor" else "<"
    number, rank = struct.unpack_from(f"{order}II", content)
    shape = struct.unpack_from(f"{order}{rank}I", content, SHAPE_START)
    return SHAPE_START + 4 * rank, shape, _type_name(number, kind)


def _type_name(number: int, kind: str) -> str:
    types = dict(enumerate(NUMPY_TYPES)) if "numpy" in kind else TORCH_TYPES
    if number not in types:
        raise ValueError(f"{kind} of LitData's type {number}; save integers or floats")
    return types[number]


def holds_label(kind: str) -> bool:
    """Say whether a leaf may be a label: a number, a word, or a tensor of one."""
    return kind in ("int", "str", "tensor") or kind.partition(":")[0] in FLAT_FORMATS


def read_label(content: bytes, kind: str) -> ClassKey | None:
    """Return a label; None for a tensor that is no whole number."""
    if kind == "int":
        return int.from_bytes(content, "little", signed=True)
    if kind == "str":
        return content.decode()
    if kind == "tensor":
        header, _, name = _read_array_header(content, kind)
        content = content[header:]
    else:
        name = _type_name(int(kind.partition(":")[2]), kind)
    dtype = np.dtype(name)
    if dtype.kind not in "iu" or len(content) != dtype.itemsize:
        return None
    return int(np.frombuffer(content, dtype)[0])
