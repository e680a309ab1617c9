"""Images stored as arrays: .npy files, and the TIFFs that Pillow cannot read.

Pillow cannot read TIFFs of many channels, 16-bit colours, floats or several pages.
The values are returned as the file holds them; `depth` knows their range.
"""

import io
from typing import Any

import numpy as np
from jaxtyping import Shaped

# the bytes of an image file, or the pixels of a store that keeps arrays
Content = bytes | np.ndarray
# of either byte order, classic and big
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
NPY_SIGNATURE = b"\x93NUMPY"
COLOUR_PHOTOMETRICS = ("RGB", "PALETTE", "SEPARATED", "YCBCR", "CIELAB")


def is_array(content: Content, name: str) -> bool:
    """Return whether this module reads the image, rather than Pillow.

    Whatever Pillow can read is also turned upright and converted to other numbers of
    channels, which arrays are not.
    """
    if not isinstance(content, bytes):
        return True
    # by its content, whatever the file is called
    if content[:4] not in TIFF_SIGNATURES:
        return _is_npy(content, name)
    import tifffile

    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page: Any = file.pages.first
        if len(file.series[0].pages) > 1:
            return True
        return not _pillow_reads_page(page)


def _is_npy(content: bytes, name: str) -> bool:
    return content.startswith(NPY_SIGNATURE) or name.lower().endswith(".npy")


def _pillow_reads_page(page: Any) -> bool:
    depth, samples = str(page.dtype), page.samplesperpixel
    # two samples are grey and opacity
    has_colour = page.photometric.name in COLOUR_PHOTOMETRICS or samples == 2
    if samples == 1 and depth in ("bool", "uint8", "uint16"):
        return True
    return depth == "uint8" and samples <= 4 and has_colour


def read_array_size(content: Content, name: str, channels: int) -> tuple[int, int]:
    """Return (height, width) from the header, without reading the pixels.

    Raises ValueError if the array is no image of that many channels.
    """
    axes = ""
    if not isinstance(content, bytes):
        shape, dtype = content.shape, content.dtype
    elif _is_npy(content, name):
        shape, dtype = _read_npy_header(content)
    else:
        import tifffile

        with tifffile.TiffFile(io.BytesIO(content)) as file:
            series = file.series[0]
            shape, dtype, axes = series.shape, series.dtype, series.axes
    # a single number broadcast to the claimed shape takes no memory, however large
    # the shape that a damaged or hostile header claims
    placeholder = np.broadcast_to(np.zeros((), dtype), shape)
    height, width, _ = _channels_last(placeholder, channels, axes).shape
    return height, width


def read_array(
    content: Content, name: str, channels: int
) -> Shaped[np.ndarray, "H W C"]:
    """Read all pixels in the file's own type, channels last.

    Raises ValueError if the array is no image of that many channels.
    """
    axes = ""
    if not isinstance(content, bytes):
        array = content
    elif _is_npy(content, name):
        # pickled arrays could run any code
        _, dtype = _read_npy_header(content)
        if dtype.hasobject:
            raise ValueError(f"it holds {dtype}s of Python; save numbers")
        array = np.load(io.BytesIO(content), allow_pickle=False)
    else:
        import tifffile

        with tifffile.TiffFile(io.BytesIO(content)) as file:
            series = file.series[0]
            array, axes = _decode_series(series), series.axes
    # files of either byte order
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    array_HWC = np.ascontiguousarray(_channels_last(array, channels, axes))
    # black and white need no more than bytes
    return array_HWC * np.uint8(255) if array_HWC.dtype == np.bool_ else array_HWC


def _decode_series(series: Any) -> Shaped[np.ndarray, "..."]:
    try:
        return series.asarray()
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        kind = series.keyframe.compression.name
        raise ValueError(
            f"it is compressed by {kind}: pip install imagecodecs reads it; deflate"
            " needs no package"
        ) from None


def _read_npy_header(content: bytes) -> tuple[tuple[int, ...], np.dtype]:
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(file)
    return shape, dtype


def _channels_last(
    array: Shaped[np.ndarray, "..."], channels: int, axes: str = ""
) -> Shaped[np.ndarray, "H W C"]:
    """Move the channel axis to the end.

    A TIFF names its axes; the one that is neither Y nor X (pages, samples) holds the
    channels. Without names it is the axis of size `channels`, the last one if both
    the first and the last have that size.
    """
    array = array[:, :, None] if array.ndim == 2 else array
    if array.ndim == 3 and "Y" in axes and "X" in axes and len(axes) == 3:
        channel_axis = next(i for i, axis in enumerate(axes) if axis not in "YX")
        if array.shape[channel_axis] == channels:
            return np.moveaxis(array, channel_axis, 2)
    if array.ndim == 3 and array.shape[2] == channels:
        return array
    if array.ndim == 3 and array.shape[0] == channels:
        return np.moveaxis(array, 0, 2)
    actual = f"{array.dtype} of shape {array.shape}"
    if axes:
        actual += f" (axes {axes})"
    raise ValueError(
        f"it holds {actual}; data.channels={channels} needs (H, W, {channels}) or"
        f" ({channels}, H, W){_channels_hint(array)}"
    )


def _channels_hint(array: Shaped[np.ndarray, "..."]) -> str:
    # the smaller outer axis is probably the channel axis
    likely = min(array.shape[0], array.shape[2]) if array.ndim == 3 else 0
    if not 0 < likely < 256:
        return ""
    return f"; set data.channels={likely} if that is their number"
