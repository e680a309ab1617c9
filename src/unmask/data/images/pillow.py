"""Decode and resize by Pillow: whole images, upright, in the wanted channels."""

import io
import re
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped, UInt8, UInt16
from PIL import Image

from unmask.data.images.arrays import Content, is_array, read_array_size
from unmask.data.images.depth import Pixels
from unmask.data.images.view_box import ViewBox, is_cut_out

# of any image, by its header: Pillow's own limit against decompression bombs
MAX_PIXELS = 178_956_970
# ITU-R 601: the shares of red, green and blue in Pillow's grey
LUMA = (0.299, 0.587, 0.114)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# left, top, right, bottom
PillowBox = tuple[float, float, float, float]
PILLOW_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by number of channels

# EXIF's tag; its values 1 to 8 say how the stored image must be turned or mirrored
ORIENTATION_TAG = 0x0112
# TIFF's tag, and its value where 0 is white
PHOTOMETRIC_TAG, MIN_IS_WHITE = 262, 0
# of PPM and PGM: P6 and P5 (P3 and P2 as text), width, height, the largest value
PPM_SPACE = rb"(?:\s|#[^\r\n]*[\r\n])+"
PPM_HEADER = re.compile(
    PPM_SPACE.join((rb"P([2356])", rb"(\d+)", rb"(\d+)", rb"(\d+)\s"))
)
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


def read_size(content: Content, name: str, channels: int) -> tuple[int, int]:
    """Return (height, width) once upright, from the header of a file or of an array.

    Raises ValueError or OSError where there is none.
    """
    if is_array(content, name):
        return read_array_size(content, name, channels)
    assert isinstance(content, bytes)
    return read_upright_size(content)[0]


def read_upright_size(content: bytes) -> tuple[tuple[int, int], bool]:
    """Return (height, width) once upright, and whether the image must be turned."""
    with Image.open(io.BytesIO(content)) as image:
        orientation = exif_orientation(image)
        width, height = image.size
    if orientation in SWAPS_SIDES:
        width, height = height, width
    return (height, width), orientation in TO_UPRIGHT


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


def decode_with_pillow(content: bytes, channels: int) -> Shaped[np.ndarray, "H W *C"]:
    """Decode upright, in 8 bits or in the file's own depth.

    Grey images of 8 bits have no axis for channels.
    """
    with Image.open(io.BytesIO(content)) as image:
        return image_values(image, channels, content)


def image_values(
    image: Image.Image, channels: int, content: bytes = b""
) -> Shaped[np.ndarray, "H W *C"]:
    """Return the pixels of an opened image as `decode_with_pillow` returns a file's.

    content: its file, which holds 16 bits of colours where Pillow opens 8.
    """
    deep_HWC = _decode_deep(content, image)
    if deep_HWC is not None:
        return _to_channels(deep_HWC, channels)
    transpose = TO_UPRIGHT.get(exif_orientation(image))
    upright = image if transpose is None else image.transpose(transpose)
    # np.array copies: torch warns about arrays that cannot be written
    return np.array(upright.convert(PILLOW_MODES[channels]))


def decode_deep(content: bytes) -> Shaped[np.ndarray, "H W C"] | None:
    """Decode upright, in the file's own depth and channels; None for 8 bits."""
    with Image.open(io.BytesIO(content)) as image:
        return _decode_deep(content, image)


def _decode_deep(
    content: bytes, image: Image.Image
) -> Shaped[np.ndarray, "H W C"] | None:
    if is_deep_png(content):
        planes = _deep_png_planes(content)
    elif image.format == "PPM" and image.mode == "RGB":
        return _deep_ppm(content)
    elif image.mode == "F" or image.mode.startswith("I"):
        planes = [_deep_plane(image)]
    else:
        return None
    transpose = TO_UPRIGHT.get(exif_orientation(image))
    if transpose is not None:
        # Pillow turns single planes of any depth
        turned = [Image.fromarray(plane).transpose(transpose) for plane in planes]
        planes = [np.asarray(plane) for plane in turned]
    return np.stack(planes, axis=2)


def is_deep_png(content: bytes) -> bool:
    """Return whether it is a PNG of 16 bits, of which Pillow returns 8 in colours."""
    return content[:8] == PNG_SIGNATURE and content[24:25] == b"\x10"


def is_deep_file(content: bytes) -> bool:
    """Return whether it is a PNG, PPM or PGM of more than 8 bits."""
    header = PPM_HEADER.match(content)
    return is_deep_png(content) or (header is not None and int(header[4]) > 255)


def _deep_plane(image: Image.Image) -> Shaped[np.ndarray, "H W"]:
    """Return floats, or 16 bits without a sign: Pillow's 32 hold no more here."""
    plane = np.asarray(image)
    if image.mode == "F":
        return plane
    plane = plane.clip(0, 65535).astype(np.uint16)
    # Pillow turns those of 8 bits itself
    is_negative = getattr(image, "tag_v2", {}).get(PHOTOMETRIC_TAG) == MIN_IS_WHITE
    return 65535 - plane if is_negative and image.mode.startswith("I;16") else plane


def _deep_ppm(content: bytes) -> UInt16[np.ndarray, "H W 3"] | None:
    """Return the 16 bits of a colour PPM, of which Pillow returns 8; None for 8.

    Another largest value than 65,535 is scaled to it, as Pillow scales those of grey.
    """
    header = PPM_HEADER.match(content)
    if header is None or int(header[4]) <= 255:
        return None
    width, height, largest = (int(header[k]) for k in (2, 3, 4))
    count = height * width * 3
    pixels = content[header.end() :]
    if header[1] == b"3":
        values = np.array(pixels.split()[:count], dtype=np.uint16)
    else:
        values = np.frombuffer(pixels, ">u2")[:count]
    if len(values) < count:
        raise ValueError(f"it ends after {len(values)} of {count} values")
    shares = np.rint(values.astype(np.float64) * 65535 / largest)
    deep = shares.clip(0, 65535).astype(np.uint16)
    return deep.reshape(height, width, 3)


def _deep_png_planes(content: bytes) -> list[UInt16[np.ndarray, "H W"]]:
    """Return the 16 bits of each channel of a PNG.

    Pillow unpacks the first byte of each sample (16B); unpacked as if it were the
    other byte order (16L), the same data give the second one.
    """
    layout = _png_layout(content)
    if layout == "I;16B":
        return [_deep_plane(Image.open(io.BytesIO(content)))]
    if layout == "LA;16B":
        # two samples of two bytes lie as four samples of one
        bytes_HW4 = _unpack_png(content, "RGBA")
        high, low = bytes_HW4[:, :, ::2], bytes_HW4[:, :, 1::2]
    else:
        high = _unpack_png(content, layout)
        low = _unpack_png(content, layout.replace("16B", "16L"))
    deep_HWC = high.astype(np.uint16) << 8 | low
    return list(np.moveaxis(deep_HWC, 2, 0))


def _png_layout(content: bytes) -> str:
    """Return how Pillow would unpack the samples of a PNG: RGB;16B, say."""
    with Image.open(io.BytesIO(content)) as image:
        (tile,) = image.tile
        assert isinstance(tile.args, str), tile
        return tile.args


def _unpack_png(content: bytes, layout: str) -> UInt8[np.ndarray, "H W C"]:
    with Image.open(io.BytesIO(content)) as image:
        image.tile = [tile._replace(args=layout) for tile in image.tile]
        return np.asarray(image)


def _to_channels(
    array_HWC: Shaped[np.ndarray, "H W _"], channels: int
) -> Shaped[np.ndarray, "H W C"]:
    """Bring 1 to 4 channels to 1, 3 or 4, as Pillow converts those of 8 bits."""
    stored = array_HWC.shape[2]
    colours_HWC = array_HWC[:, :, : 1 if stored < 3 else 3]
    if channels == 1 and stored >= 3:
        grey_HW = np.rint(colours_HWC @ np.array(LUMA)).astype(array_HWC.dtype)
        return grey_HW[:, :, None]
    if channels >= 3 and stored < 3:
        colours_HWC = colours_HWC.repeat(3, axis=2)
    if channels < 4:
        return np.ascontiguousarray(colours_HWC)
    is_float = array_HWC.dtype == np.float32
    white = 1.0 if is_float else np.iinfo(array_HWC.dtype).max
    opacity_HW1 = np.full_like(array_HWC[:, :, :1], white)
    if stored in (2, 4):
        opacity_HW1 = array_HWC[:, :, -1:]
    return np.concatenate([colours_HWC, opacity_HW1], axis=2)


def resize_with_pillow(
    image_HWC: Pixels, box: PillowBox, shape: tuple[int, int]
) -> Pixels:
    """Resize the box (left, top, right, bottom) by Pillow's bicubic."""
    return _resize_channels(image_HWC, [(shape[::-1], box)])


def resize_part(
    image_HWC: Pixels, box: ViewBox, shape: tuple[int, int], height_first: bool
) -> Pixels:
    """Resize the box (top, left, height, width), in a pass for each side.

    What lies around the box counts, too: it is as if the whole image were resized, and
    the box then cut out. Pillow itself chooses the order of the passes by their work,
    which is another one for a part of the image.
    """
    top, left, height, width = box
    if is_cut_out(box, shape):
        rows = slice(int(top), int(top) + shape[0])
        return image_HWC[rows, int(left) : int(left) + shape[1]]
    tall, wide = image_HWC.shape[:2]
    # rounding must not leave the image
    bottom, right = min(tall, top + height), min(wide, left + width)
    if height_first:
        passes = [
            ((wide, shape[0]), (0, top, wide, bottom)),
            (shape[::-1], (left, 0, right, shape[0])),
        ]
    else:
        passes = [
            ((shape[1], tall), (left, 0, right, tall)),
            (shape[::-1], (0, top, shape[1], bottom)),
        ]
    return _resize_channels(image_HWC, passes)


def _resize_channels(
    image_HWC: Pixels, passes: Sequence[tuple[tuple[int, int], PillowBox]]
) -> Pixels:
    """Resize one after the other: to (width, height), from a box."""
    is_rgb = image_HWC.shape[2] == 3 and image_HWC.dtype == np.uint8
    # Pillow has no images of other channel counts, and it would weight the colours of
    # RGBA by opacity: their channels are resized one by one
    parts = [image_HWC] if is_rgb else list(np.moveaxis(image_HWC, 2, 0))
    images = [Image.fromarray(np.ascontiguousarray(part)) for part in parts]
    for size, box in passes:
        images = [i.resize(size, Image.Resampling.BICUBIC, box) for i in images]
    resized = [np.array(image) for image in images]
    out_hwC = resized[0] if is_rgb else np.stack(resized, axis=2)
    # the kernel overshoots at edges; Pillow clips bytes, not floats
    return out_hwC if out_hwC.dtype == np.uint8 else out_hwC.clip(0, 1)
