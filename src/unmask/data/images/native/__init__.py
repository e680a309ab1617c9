"""An optional decoder of JPEG regions, built at set-up on the system's libjpeg-turbo.

Where it was not built, or does not give exactly Pillow's pixels, other decoders are
used without a message: their pixels are the same.
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

SOURCE = Path(__file__).parent / "region.c"
FOLDER = Path(sys.prefix) / "lib" / "unmask-native"  # in this virtual environment
# its symbols must not bind to the libjpeg that Pillow brings along
LOCAL = getattr(os, "RTLD_LOCAL", 0) | getattr(os, "RTLD_DEEPBIND", 0)
# (channels, Pillow's settings) of the small JPEGs that test a built decoder: one for
# each kind that it is asked to decode
TEST_JPEGS: tuple[tuple[int, dict[str, int]], ...] = (
    (3, {"subsampling": 2}),
    (3, {"subsampling": 1}),
    (3, {"subsampling": 0, "restart_marker_blocks": 3}),
    (3, {"subsampling": 2, "progressive": 1}),
    (1, {}),
)
CSize = ctypes.c_int * 2
CBox = ctypes.c_int * 4
# (content, (height, width), (top, left, height, width), channels, denominator) to
# pixels; None: ask another decoder
RegionDecoder = Callable[
    [bytes, tuple[int, int], tuple[int, int, int, int], int, int],
    UInt8[np.ndarray, "h w C"] | None,
]


@cache
def region_decoder() -> RegionDecoder | None:
    """Return the decoder that was built from the present source, if there is one."""
    built = FOLDER / library_name()
    return load_decoder(built) if built.exists() else None


def library_name() -> str:
    """Return the library's file name, which holds a hash of the source."""
    return f"region-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}.so"


def load_decoder(path: Path) -> RegionDecoder | None:
    """Load a built library; return None if it cannot be loaded or is not exact.

    It is tested at each start, since system libraries may change after the build.
    """
    try:
        function = ctypes.CDLL(str(path), mode=LOCAL).unmask_region
    except (OSError, AttributeError):
        return None
    function.argtypes = [
        ctypes.c_char_p,
        ctypes.c_size_t,
        CSize,
        CBox,
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
        # ctypes releases the interpreter's lock, so threads decode in parallel
        failed = function(
            content,
            len(content),
            CSize(*size),
            CBox(*box),
            channels,
            denominator,
            out.ctypes.data,
        )
        return None if failed else out

    return decode if matches_pillow(decode) else None


def matches_pillow(decode: RegionDecoder) -> bool:
    """Return whether it decodes a small picture exactly as Pillow, for each kind."""
    x, y = np.meshgrid(np.arange(75), np.arange(53))
    picture = np.stack([x * 3, y * 4, (x * y) % 251], axis=2).astype(np.uint8)
    return all(
        _matches_one(decode, picture[:, :, :channels], settings)
        for channels, settings in TEST_JPEGS
    )


def _matches_one(
    decode: RegionDecoder,
    picture: UInt8[np.ndarray, "H W C"],
    settings: dict[str, int],
) -> bool:
    file = io.BytesIO()
    channels = picture.shape[2]
    image = Image.fromarray(picture if channels == 3 else picture[:, :, 0])
    image.save(file, "JPEG", quality=90, **settings)
    reference = np.asarray(Image.open(file)).reshape(picture.shape)
    region = decode(file.getvalue(), (53, 75), (21, 18, 20, 40), channels, 1)
    return region is not None and np.array_equal(region, reference[21:41, 18:58])
