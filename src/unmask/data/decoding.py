"""From the bytes of an image to a view of it: the header first, then the crop is chosen, then it is decoded, resized.

Decoding is upright (EXIF), of the wanted number of channels, with 16-bit grey scaled, not clipped.
"""

import errno
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torch.nn.functional import interpolate

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
MAX_PIXELS = 178_956_970  # of any image, by its header: Pillow's own bound on decompression bombs
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # EXIF: these values swap height and width
UPRIGHT = dict(enumerate((
    Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90,
), start=2))  # fmt: skip
# what Pillow thinks of odd files, again and again and from each worker; between its two bounds a bomb is none to us
warnings.filterwarnings("ignore", module=r"PIL\.")
Box = tuple[int, int, int, int]  # top, left, height, width


OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # faults of this process, which other images would meet too
NEAR, MOST = 16, 256  # neighbours that are tried one by one, and images in all, for one that has to stand in


class Bad(NamedTuple):
    """An image that could not be read, in whose place another stands."""

    id: int
    name: str
    reason: str


class BadImageError(ValueError):
    """It cannot be read as an image of the wanted kind: its name and why."""

    def __init__(self, name: str, reason: object) -> None:
        super().__init__(f"{shown(name)} cannot be read as an image ({reason}); mend or remove the file")
        self.name, self.reason = name, str(reason)


@dataclass(frozen=True)
class Encoded:
    """An image whose header has been read. size: upright (height, width)."""

    content: bytes
    name: str
    channels: int
    size: tuple[int, int]


def opened(content: bytes, name: str, channels: int) -> Encoded:
    """Read the header alone. Raises BadImageError."""
    try:
        if not content:
            raise ValueError("it is empty")
        if name.endswith(".npy"):
            return Encoded(content, name, channels, _array_size(content, channels))
        if channels not in MODES:
            raise ValueError(f"image files have 1, 3 or 4 channels, not {channels}; use .npy arrays")
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size[::-1] if orientation(image) in TURNED else image.size
            return Encoded(content, name, channels, within_bounds(height, width))
    except MemoryError:  # no fault of the file's
        raise
    except Exception as error:
        raise BadImageError(name, _reason(error)) from error


def within_bounds(height: int, width: int) -> tuple[int, int]:
    """The size. Raises ValueError where a header tells of more pixels than any decoder here is to make."""
    if height * width > MAX_PIXELS:
        raise ValueError(f"its {height} x {width} pixels are more than the {MAX_PIXELS:,} that are allowed")
    return height, width


def decoded(image: Encoded) -> UInt8[np.ndarray, "H W C"]:
    """All of it. Raises BadImageError."""
    try:
        array = _array(image.content, image.channels) if image.name.endswith(".npy") else _pixels(image)
        if array.shape[:2] != image.size:
            raise ValueError(f"its header says {image.size[0]} x {image.size[1]} pixels, it has {array.shape[:2]}")
    except MemoryError:
        raise
    except Exception as error:
        raise BadImageError(image.name, _reason(error)) from error
    return array[:, :, None] if array.ndim == 2 else array


def view(image: Encoded, box: Box, shape: tuple[int, int]) -> UInt8[np.ndarray, "h w C"]:
    """The box, resized to `shape`. Raises BadImageError."""
    return resized(decoded(image), box, shape)


def resized(
    array_HWC: UInt8[np.ndarray, "H W C"], box: Box, shape: tuple[int, int]
) -> UInt8[np.ndarray, "h w C"]:  # fmt: skip
    """Pillow's antialiased bicubic in torch's vectorised code: within 2 of 255 of Pillow, equal in 99 % of pixels."""
    top, left, height, width = box
    cut = torch.from_numpy(array_HWC[top : top + height, left : left + width])
    if (height, width) == shape:
        return cut.numpy()
    out = interpolate(cut.permute(2, 0, 1)[None], size=shape, mode="bicubic", antialias=True)
    return out[0].permute(1, 2, 0).numpy()


def _array(content: bytes, channels: int) -> Any:
    _array_size(content, channels)
    array = np.load(io.BytesIO(content))
    array = array[:, :, None] if array.ndim == 2 else array
    return array


def _array_size(content: bytes, channels: int) -> tuple[int, int]:
    """By the header: NumPy would make room for whatever it claims."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if len(shape) not in (2, 3) or (*shape, 1)[2] != channels or dtype != np.uint8:
        raise ValueError(f"it holds {dtype} of shape {shape}; data.channels={channels} needs uint8 HWC")
    return within_bounds(shape[0], shape[1])


def orientation(image: Image.Image) -> int:
    """EXIF's, 1 (upright) where it is none of 1 to 8 or damaged; of what stands before the pixels."""
    try:
        # of a PNG without EXIF its own getexif would decode all pixels to look behind them
        return int(Image.Image.getexif(image).get(ORIENTATION, 1))
    except Exception:
        return 1


def unreadable(name: str, error: OSError) -> BadImageError:
    """What is said of a file; raises the error itself where no file is to blame."""
    if error.errno in OURS:
        raise error
    return BadImageError(name, error.strerror or error)


def candidates(i: int, count: int) -> Iterator[int]:
    """The sample, then those that may stand in for it, in order: its neighbours, mostly of its class; then farther
    and farther ones, since a class may be bad as a whole.
    """
    yield i
    far = [NEAR << k for k in range(1, count.bit_length())]
    steps = dict.fromkeys([*range(1, NEAR + 1), *far, *range(NEAR + 1, MOST)])
    yield from ((i + k) % count for k in steps if k < count)


def none_of(bad: Sequence[Bad]) -> ValueError:
    first = f"{shown(bad[0].name)} ({bad[0].reason})"
    return ValueError(f"none of {len(bad)} images in a row can be read, the first is {first}; is the disk there?")


def _reason(error: Exception) -> str:
    """In a line; Pillow's word for an unknown format is the address of a buffer."""
    if isinstance(error, UnidentifiedImageError):
        return "it is no image of a known format"
    if isinstance(error, Image.DecompressionBombError):
        return f"its header tells of more than the {MAX_PIXELS:,} pixels that are allowed"
    return " ".join(str(error).split()) or type(error).__name__


def shown(name: str) -> str:
    """A name that fits a line of any terminal: what cannot be printed is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)


def _pixels(encoded: Encoded) -> np.ndarray:
    with Image.open(io.BytesIO(encoded.content)) as image:
        turn = UPRIGHT.get(orientation(image))
        upright = image if turn is None else image.transpose(turn)
        if upright.mode == "F":  # Pillow would clip 0..1 to black
            raise ValueError("its pixels are floating point; save it as 8 or 16 bits, or as a uint8 .npy array")
        if upright.mode.startswith("I"):  # Pillow would clip 16 bits at 255: nearly all white
            upright = Image.fromarray((np.asarray(upright) // 257).clip(0, 255).astype(np.uint8))
        # a copy: torch warns of arrays that cannot be written
        return np.array(upright.convert(MODES[encoded.channels]))
