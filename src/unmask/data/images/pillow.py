"""Decode and resize by Pillow: whole images, upright, in the wanted channels."""

import io
import warnings

import numpy as np
from jaxtyping import UInt8
from PIL import Image

# of any image, by its header: Pillow's own limit against decompression bombs
MAX_PIXELS = 178_956_970
PILLOW_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by number of channels

# EXIF's tag; its values 1 to 8 say how the stored image must be turned or mirrored
ORIENTATION_TAG = 0x0112
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


def decode_with_pillow(content: bytes, channels: int) -> UInt8[np.ndarray, "H W *C"]:
    """Decode upright; grey images have no axis for channels."""
    with Image.open(io.BytesIO(content)) as image:
        transpose = TO_UPRIGHT.get(exif_orientation(image))
        upright = image if transpose is None else image.transpose(transpose)
        # Pillow would clip floats in [0, 1] to black
        if upright.mode == "F":
            raise ValueError(
                f"its pixels are floating point (mode {upright.mode}); save it as 8 or"
                " 16 bits, or as a .npy array in [0, 1]"
            )
        # Pillow would clip 16-bit values at 255: nearly all white
        if upright.mode.startswith("I"):
            scaled = (np.asarray(upright) // 257).clip(0, 255).astype(np.uint8)
            upright = Image.fromarray(scaled)
        # np.array copies: torch warns about arrays that cannot be written
        return np.array(upright.convert(PILLOW_MODES[channels]))


def resize_with_pillow(
    image_HWC: UInt8[np.ndarray, "H W C"],
    box: tuple[float, float, float, float],
    shape: tuple[int, int],
) -> UInt8[np.ndarray, "h w C"]:
    """Resize the box (left, top, right, bottom) by Pillow's bicubic."""
    is_rgb = image_HWC.shape[2] == 3
    # Pillow has no images of other channel counts, and it would weight the colours of
    # RGBA by opacity: their channels are resized one by one
    parts = [image_HWC] if is_rgb else list(np.moveaxis(image_HWC, 2, 0))
    images = [Image.fromarray(np.ascontiguousarray(part)) for part in parts]
    resized = [
        np.array(image.resize(shape[::-1], Image.Resampling.BICUBIC, box))
        for image in images
    ]
    return resized[0] if is_rgb else np.stack(resized, axis=2)
