"""Images that are arrays: .npy, and the TIFFs that Pillow does not read (many channels, 16 bits, floats, pages).

8 bits are taken as they are and 16 are divided by 257, so that 65535 is white. Floats are shares of white and have to
lie in [0, 1]: whatever else they count, no scale of theirs is known from one image.
"""

import io
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

Content = bytes | np.ndarray  # of a file, or pixels that a store keeps as such
TIFFS = (".tif", ".tiff")
PILLOWS = ("MINISBLACK", "MINISWHITE", "RGB", "PALETTE", "SEPARATED", "YCBCR", "CIELAB")


def is_array(content: Content, name: str) -> bool:
    """Whether it is read here: what Pillow reads it also turns, and brings to other numbers of channels."""
    if not isinstance(content, bytes):
        return True
    # Pillow goes by content, not by name
    if not name.lower().endswith(TIFFS) or content[:2] not in (b"II", b"MM"):
        return name.lower().endswith(".npy")
    import tifffile

    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page: Any = file.pages.first
        depth = str(page.dtype)
        if len(file.series[0].pages) > 1:
            return True
        grey = page.samplesperpixel == 1 and depth in ("bool", "uint8", "uint16")
        colours = page.photometric.name in PILLOWS[2:] or page.samplesperpixel == 2
        return not (
            grey or (depth == "uint8" and page.samplesperpixel <= 4 and colours)
        )


def array_size(content: Content, name: str, channels: int) -> tuple[int, int]:
    """(height, width). Raises ValueError where it is no image of so many channels."""
    axes = ""
    if not isinstance(content, bytes):
        shape, dtype = content.shape, content.dtype
    elif name.lower().endswith(".npy"):
        shape, dtype = _header(content)
    else:
        import tifffile

        with tifffile.TiffFile(io.BytesIO(content)) as file:
            shape, dtype, axes = (
                file.series[0].shape,
                file.series[0].dtype,
                file.series[0].axes,
            )
    # as if the pixels were there: an array of one number, seen in that shape; a header
    # may claim any size
    height, width, _ = _ordered(
        np.broadcast_to(np.zeros((), dtype), shape), channels, axes
    ).shape
    return height, width


def array_pixels(
    content: Content, name: str, channels: int
) -> UInt8[np.ndarray, "H W C"]:
    """Raises ValueError where it is no image of so many channels, or of numbers without a scale."""
    if not isinstance(content, bytes):
        return _eight_bits(_ordered(content, channels))
    if name.lower().endswith(".npy"):
        return _eight_bits(
            _ordered(np.load(io.BytesIO(content), allow_pickle=False), channels)
        )
    import tifffile

    with tifffile.TiffFile(io.BytesIO(content)) as file:
        series = file.series[0]
        return _eight_bits(_ordered(series.asarray(), channels, series.axes))


def _header(content: bytes) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and kind of a .npy array."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(file)
    return shape, dtype


def _ordered(
    array: Shaped[np.ndarray, "..."], channels: int, axes: str = ""
) -> Shaped[np.ndarray, "H W C"]:
    """Channels last. A TIFF names its axes, and its pages are channels; else the axis of the wanted size is theirs, the
    last one where two are.
    """
    array = array[:, :, None] if array.ndim == 2 else array
    if array.ndim == 3 and "Y" in axes and "X" in axes and len(axes) == 3:
        named = next(i for i, axis in enumerate(axes) if axis not in "YX")
        if array.shape[named] == channels:
            return np.moveaxis(array, named, 2)
    if array.ndim == 3 and array.shape[2] == channels:
        return array
    if array.ndim == 3 and array.shape[0] == channels:
        return np.moveaxis(array, 0, 2)
    what = f"{array.dtype} of shape {array.shape}" + (f" (axes {axes})" if axes else "")
    fewest = min(array.shape[0], array.shape[2]) if array.ndim == 3 else 0
    cure = (
        f"; set data.channels={fewest} where that is their number"
        if 0 < fewest < 256
        else ""
    )
    raise ValueError(
        f"it holds {what}; data.channels={channels} needs (H, W, {channels}) or"
        f" ({channels}, H, W){cure}"
    )


def _eight_bits(array_HWC: Shaped[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H W C"]:
    kind = array_HWC.dtype
    if kind == np.bool_:
        found = array_HWC * np.uint8(255)
    elif kind == np.uint8:
        found = array_HWC
    elif kind == np.uint16:
        found = array_HWC // 257
    elif np.issubdtype(kind, np.floating):
        low, high = array_HWC.min(), array_HWC.max()
        if not (low >= 0 and high <= 1):  # nor NaN
            raise ValueError(
                f"its floats reach from {low:g} to {high:g}; bring them to [0, 1], or"
                " save uint8 or uint16"
            )
        found = np.rint(array_HWC * 255)
    else:
        raise ValueError(f"it holds {kind}; save uint8, uint16, or floats in [0, 1]")
    return np.ascontiguousarray(found, dtype=np.uint8)
