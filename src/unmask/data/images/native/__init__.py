"""An optional decoder of our own: a region of a JPEG by the system's libjpeg-turbo, where it was built at set-up.

Where it was not, or does not give Pillow's very pixels, there is none and nobody is told: others decode the same.
"""

import ctypes
import hashlib
import io
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

SOURCES = (Path(__file__).parent / "region.c", Path(__file__).parent / "entropy.h")
FOLDER = Path(sys.prefix) / "lib" / "unmask-native"  # of this virtual environment
# never the libjpeg that Pillow carries
LOCAL = getattr(os, "RTLD_LOCAL", 0) | getattr(os, "RTLD_DEEPBIND", 0)
KINDS: tuple[tuple[int, dict[str, int]], ...] = (
    (3, {"subsampling": 2}),
    (3, {"subsampling": 1}),
    (3, {"subsampling": 0, "restart_marker_blocks": 3}),
    (3, {"subsampling": 2, "progressive": 1}),
    (1, {}),
)
Size, Place = ctypes.c_int * 2, ctypes.c_int * 4
# (content, (height, width), (top, left, height, width), channels, denominator) to
# pixels, or None: ask another decoder
Region = Callable[
    [bytes, tuple[int, int], tuple[int, int, int, int], int, int],
    UInt8[np.ndarray, "h w C"] | None,
]


@cache
def region() -> Region | None:
    """The decoder that was built of this source."""
    built = sorted(FOLDER.glob(f"region-{source_hash()}-*.so"))
    return load(built[-1]) if built else None


def source_hash() -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in SOURCES)).hexdigest()[
        :12
    ]


def load(path: Path) -> Region | None:
    """None where it cannot be loaded, or decodes other pixels than Pillow: libraries are changed beneath programs."""
    try:
        function = ctypes.CDLL(str(path), mode=LOCAL).unmask_region
    except (OSError, AttributeError):
        return None
    function.argtypes = [
        ctypes.c_char_p,
        ctypes.c_size_t,
        Size,
        Place,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_void_p,
    ]
    function.restype = ctypes.c_int

    def decode(
        content: bytes,
        size: tuple[int, int],
        box: tuple[int, int, int, int],
        channels: int,
        denominator: int,
    ) -> UInt8[np.ndarray, "h w C"] | None:
        out = np.empty((box[2], box[3], channels), dtype=np.uint8)
        failed = function(
            content,
            len(content),
            Size(*size),
            Place(*box),
            channels,
            denominator,
            out.ctypes.data,
        )  # without the interpreter's lock: ctypes lets go of it
        return None if failed else out

    return decode if agrees(decode) else None


def agrees(decode: Region) -> bool:
    """Whether it decodes as Pillow does: each kind of JPEG that it is asked for, on a small picture."""
    across, down = np.meshgrid(np.arange(75), np.arange(53))
    picture = np.stack([across * 3, down * 4, (across * down) % 251], axis=2).astype(
        np.uint8
    )
    return all(
        _agrees(decode, picture[:, :, :depth], settings) for depth, settings in KINDS
    )


def _agrees(
    decode: Region, picture: UInt8[np.ndarray, "H W C"], settings: dict[str, int]
) -> bool:
    file, depth = io.BytesIO(), picture.shape[2]
    Image.fromarray(picture if depth == 3 else picture[:, :, 0]).save(
        file, "JPEG", quality=90, **settings
    )
    whole = np.asarray(Image.open(file)).reshape(picture.shape)
    ours = decode(file.getvalue(), (53, 75), (21, 18, 20, 40), depth, 1)
    return ours is not None and np.array_equal(ours, whole[21:41, 18:58])
