"""Images as a loaded model takes them: paths, Pillow's images, arrays, tensors."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from PIL import Image
from torch import Tensor

from unmask.commands.images import find_images
from unmask.data.images.depth import ROUNDING, Ranges, type_range
from unmask.data.images.pillow import PILLOW_MODES, image_values
from unmask.data.images.tensors import PixelBatch
from unmask.data.images.unreadable import BadImageError
from unmask.data.listing.names import read_file
from unmask.data.loading.views import Views
from unmask.library.arguments import as_path
from unmask.library.errors import InputError, as_input_errors

OneImage = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor
Images = OneImage | Iterable[OneImage]
ACCEPTED = "a path, a Pillow image, a NumPy array or a tensor"

# an image of Pillow reads its file when it is first used
_pillow_lock = Lock()


def list_images(folder: str | Path) -> list[Path]:
    """List the images below a folder, in the order in which a model takes them.

    Raises InputError where there are none.
    """
    with as_input_errors():
        root, names = find_images(as_path("folder", folder))
    return [root / name for name in names]


@dataclass(frozen=True)
class GivenImages:
    """Hand out images by index, as the stores of data sets do.

    entries: a path, an image of Pillow, or pixels of any accepted type, channels last.
    """

    entries: tuple[str | Image.Image | np.ndarray, ...]
    names: tuple[str, ...]
    channels: int

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, i: int) -> str:
        return self.names[i]

    def read(self, i: int) -> bytes | Shaped[np.ndarray, "H W C"]:
        entry = self.entries[i]
        if isinstance(entry, str):
            return read_file(entry)
        if isinstance(entry, np.ndarray):
            return entry
        with _pillow_lock:
            try:
                values = image_values(entry, self.channels)
            # it is closed, say
            except ValueError as error:
                raise BadImageError(self.name(i), error) from error
        return values[:, :, None] if values.ndim == 2 else values


def collect_images(
    images: Images, channels: int, ranges: Ranges | None = None
) -> GivenImages:
    """Return images of all accepted kinds as one store.

    channels, ranges: of the model. Raises InputError for what is no image, has other
    channels, or does not exist.
    """
    entries = []
    names = []
    for name, image in _name_each(images):
        entry: Any = image
        if isinstance(image, str | os.PathLike):
            entry = _existing_file(as_path(name, image))
        elif isinstance(image, Image.Image):
            _check_pillow(channels, name)
        elif isinstance(image, np.ndarray | Tensor):
            entry = _checked_pixels(image, channels, ranges, name)
        else:
            kind = type(image).__name__
            raise InputError(f"{name}: of type {kind}; give {ACCEPTED}")
        entries.append(entry)
        names.append(entry if isinstance(entry, str) else name)
    if not entries:
        raise InputError(f"images={images!r}: nothing in it; give at least one image")
    return GivenImages(tuple(entries), tuple(names), channels)


def _name_each(images: Images) -> Iterator[tuple[str, Any]]:
    """Yield each image with what messages call it."""
    if isinstance(images, str | os.PathLike):
        path = as_path("images", images)
        if not path.is_dir():
            yield str(path), path
            return
        yield from ((str(each), each) for each in list_images(path))
        return
    is_one = isinstance(images, Image.Image)
    if isinstance(images, np.ndarray | Tensor):
        is_one = images.ndim < 4
    if is_one or not isinstance(images, Iterable) or isinstance(images, dict | bytes):
        yield "images", images
        return
    for i, image in enumerate(images):
        yield f"images[{i}]", image


def _existing_file(path: Path) -> str:
    if path.is_dir():
        raise InputError(f"images={path} is a folder; give it alone, or its files")
    if not path.exists():
        raise InputError(f"images={path}: no such file or folder")
    return str(path)


def _check_pillow(channels: int, name: str) -> None:
    if channels not in PILLOW_MODES:
        raise InputError(
            f"{name}: Pillow's images have 1, 3 or 4 channels and this model takes"
            f" {channels}; give an array (height, width, {channels})"
        )


def _checked_pixels(
    pixels: np.ndarray | Tensor, channels: int, ranges: Ranges | None, name: str
) -> Shaped[np.ndarray, "H W C"]:
    """Return pixels with their channels last; InputError for those of no image."""
    array = _to_array(pixels, channels, name)
    array = array[:, :, None] if array.ndim == 2 else array
    if array.ndim != 3 or channels not in (array.shape[2], array.shape[0]):
        raise InputError(
            f"{name}: the shape is {(*pixels.shape,)} and this model takes {channels}"
            f" channels: (height, width, {channels}) or ({channels}, height, width)"
        )
    if array.shape[2] != channels:
        array = np.moveaxis(array, 0, 2)
    if not array.size:
        raise InputError(f"{name}: the shape {array.shape} has no pixels")
    # data.range of the training says what values of any type mean
    if ranges is None:
        _check_range(array, name)
    # torch warns about arrays that cannot be written
    return array if array.flags.writeable else array.copy()


def _to_array(pixels: np.ndarray | Tensor, channels: int, name: str) -> np.ndarray:
    if isinstance(pixels, np.ndarray):
        return pixels
    if pixels.layout != torch.strided or pixels.is_quantized or pixels.is_meta:
        raise InputError(
            f"{name}: a tensor of {pixels.layout}, {pixels.dtype}, on {pixels.device};"
            " give a dense one that holds numbers: to_dense(), dequantize()"
        )
    pixels = pixels.detach().cpu()
    # NumPy has no bfloat16
    if pixels.is_floating_point():
        pixels = pixels.float()
    # the channels of a tensor come first, whatever the sizes of the sides
    if pixels.ndim == 3 and pixels.shape[0] == channels:
        pixels = pixels.permute(1, 2, 0)
    return pixels.numpy()


def _check_range(array_HWC: Shaped[np.ndarray, "H W C"], name: str) -> None:
    """Raise InputError for values whose range is not known, or that leave it."""
    own = type_range(array_HWC.dtype)
    if own is None:
        raise InputError(
            f"{name}: {array_HWC.dtype} has no range of its own; give uint8, uint16 or"
            " floats from 0 to 1"
        )
    if not np.issubdtype(array_HWC.dtype, np.floating):
        return
    low, high = float(array_HWC.min()), float(array_HWC.max())
    # also where one is NaN
    if not own[0] - ROUNDING <= low <= high <= own[1] + ROUNDING:
        raise InputError(
            f"{name}: floats from {low:g} to {high:g}; give shares from 0 (black) to 1,"
            " as they are before mean and std are taken off"
        )


def pixel_batches(views: Views, batch_size: int) -> Iterator[PixelBatch]:
    """Yield evaluation's view of all images, in order.

    The next batch is decoded while the model works on this one. Raises BadImageError
    where an image cannot be read.
    """
    parts = torch.arange(len(views)).split(batch_size)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(views.batch, 0, parts[0].tolist())
        for part in parts[1:]:
            ready = waiting.result()
            waiting = pool.submit(views.batch, 0, part.tolist())
            yield ready.images_BCHW
        yield waiting.result().images_BCHW
