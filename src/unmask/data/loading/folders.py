"""Stored images of any size.

They are decoded once into memory if all are small and of one size; otherwise they are
read as needed.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from unmask.data.images.decoding import (
    DecodeMode,
    EncodedImage,
    decode_image,
    decode_values,
    read_header,
)
from unmask.data.images.depth import Ranges, narrow_note
from unmask.data.images.tensors import PixelTensor, bytes_to_shares
from unmask.data.images.unreadable import (
    BadImage,
    BadImageError,
    no_substitute_error,
    read_content,
    substitutes,
)
from unmask.data.listing.listing import Listing
from unmask.data.listing.names import FolderStore, pack_names
from unmask.data.listing.stores import Store
from unmask.data.loading.in_memory import InMemory

# a split whose pixels take more bytes is not loaded into memory by default
MAX_AUTO_BYTES = 2**30
NUM_MEASURED = 8  # images that are read to learn how full their range is
NUM_PEEKED = 32  # images that are read to learn whether all have one size
IMAGES_PER_TASK = 2048  # that a thread decodes at once


class OddSizeError(ValueError):
    """An image has another size than data.image_size."""


class _DeepError(Exception):
    """An image has more bits than the bytes that its split was to be held in."""


@dataclass(frozen=True)
class StoredImages:
    """A split in a store; images are read and decoded when they are needed.

    Labels are -1 without classes. ranges: data.range; None: that of each file's type.
    """

    store: Store
    labels_N: Int[Tensor, "N"]
    channels: int
    decode: DecodeMode = "fast"
    ranges: Ranges | None = None

    def __len__(self) -> int:
        return len(self.store)

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of pixels that batches have, unless a file has more bits."""
        return torch.uint8 if self.ranges is None else torch.float32

    def read_header(self, i: int) -> EncodedImage:
        """Read image i and its header. Raises BadImageError."""
        content = read_content(self.store, i)
        return read_header(content, self.store.name(i), self.channels, self.ranges)


def read_image(path: Path, channels: int, ranges: Ranges | None = None) -> PixelTensor:
    """Read and decode the file of an image.

    .npy files hold arrays of (H, W), (H, W, channels) or (channels, H, W), for any
    number of channels. Raises BadImageError with the path if it cannot be read.
    """
    store = FolderStore(path.parent, pack_names([path.name]))
    no_labels_N = torch.full((1,), -1)
    return read_stored(StoredImages(store, no_labels_N, channels, ranges=ranges), 0)


def read_stored(images: StoredImages, i: int) -> PixelTensor:
    """Read and decode image i of a split. Raises BadImageError."""
    pixels_HWC = decode_image(images.read_header(i))
    return torch.from_numpy(pixels_HWC.transpose(2, 0, 1).copy())


def splits_from_listing(
    listing: Listing,
    channels: int,
    shape: tuple[int, int],
    in_memory: bool | None,
    decode: DecodeMode = "fast",
    ranges: Ranges | None = None,
) -> tuple[InMemory | StoredImages, InMemory | StoredImages]:
    """Return (train, val), loaded into memory or left in their stores.

    in_memory=None decides by the sizes of some images and the memory that all would
    take. Raises OddSizeError if in_memory=True and an image has another size.
    """
    train = replace(_stored_split(listing, 0, channels), ranges=ranges)
    val = replace(_stored_split(listing, 1, channels), ranges=ranges)
    if in_memory or (in_memory is None and _fits(train, shape) and _fits(val, shape)):
        try:
            return _load_split(train, shape), _load_split(val, shape)
        # an image that was not peeked at has another size
        except OddSizeError:
            if in_memory:
                raise
    return replace(train, decode=decode), replace(val, decode=decode)


def _stored_split(listing: Listing, index: int, channels: int) -> StoredImages:
    split = (listing.train, listing.val)[index]
    if listing.stores:
        store = listing.stores[index]
    else:
        store = FolderStore(Path(listing.root), split.names)
    return StoredImages(store, torch.from_numpy(split.labels).long(), channels)


def _fits(images: StoredImages, shape: tuple[int, int]) -> bool:
    """Return whether a split is small enough, and of one size as far as peeked at."""
    values = len(images) * images.channels * shape[0] * shape[1]
    if values * images.dtype.itemsize > MAX_AUTO_BYTES:
        return False
    step = max(1, len(images) // NUM_PEEKED)
    # bad images have no size, and their substitutes will have the right one
    sizes = {_read_size(images, i) for i in range(0, len(images), step)}
    return sizes - {None} == {shape}


def narrow_values(listing: Listing, channels: int, ranges: Ranges | None) -> str | None:
    """Say where some training images fill less than a tenth of their range."""
    images = _stored_split(listing, 0, channels)
    ends: list[float] = []
    dtypes = set()
    for i in range(0, len(images), max(1, len(images) // NUM_MEASURED)):
        try:
            values = decode_values(images.read_header(i))
        # it is reported when it is used
        except BadImageError:
            continue
        ends += [float(values.min()), float(values.max())]
        dtypes.add(values.dtype)
    return narrow_note(min(ends), max(ends), ranges, dtypes) if ends else None


def _read_size(images: StoredImages, i: int) -> tuple[int, int] | None:
    try:
        image = read_stored(images, i)
    except BadImageError:
        return None
    return image.shape[1], image.shape[2]


def _load_split(
    images: StoredImages, shape: tuple[int, int], dtype: torch.dtype | None = None
) -> InMemory:
    """Decode a whole split. Raises OddSizeError if an image has another size."""
    dtype = dtype or images.dtype
    pixels = torch.empty((len(images), images.channels, *shape), dtype=dtype)
    bad: dict[int, BadImage] = {}

    def decode(start: int) -> None:
        for i in range(start, min(start + IMAGES_PER_TASK, len(images))):
            decode_one(i)

    def decode_one(i: int) -> None:
        try:
            image = read_stored(images, i)
        except BadImageError as error:
            bad[i] = BadImage(i, error.name, error.reason)
            return
        if image.shape[1:] != shape:
            raise OddSizeError(
                f"{images.store.name(i)} is {image.shape[1]} x {image.shape[2]},"
                f" data.image_size is {shape[0]} x {shape[1]}; other sizes are read"
                " from disk and resized: set data.in_memory=false"
            )
        if image.dtype != dtype and dtype == torch.uint8:
            raise _DeepError
        pixels[i] = image if image.dtype == dtype else bytes_to_shares(image)

    with ThreadPoolExecutor() as pool:
        try:
            # list() raises what a task raised
            list(pool.map(decode, range(0, len(images), IMAGES_PER_TASK)))
        except _DeepError:
            return _load_split(images, shape, torch.float32)
    split = InMemory(pixels, images.labels_N.clone())
    _fill_substitutes(split, bad)
    return split


def _fill_substitutes(split: InMemory, bad: dict[int, BadImage]) -> None:
    """Fill in the substitutes that would be used if all were read from disk."""
    for i in sorted(bad):
        tried = [bad[i]]
        for candidate in substitutes(i, len(split)):
            if candidate not in bad:
                split.images_NCHW[i] = split.images_NCHW[candidate]
                split.labels_N[i] = split.labels_N[candidate]
                break
            tried.append(bad[candidate])
        else:
            raise no_substitute_error(tried)
        split.bad_images[i] = tuple(tried)
