"""Folders of images of any size: decoded once into memory where all are small and of one size, else read as needed."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from unmask.data.images.decoding import Content, Decode, decoded, opened
from unmask.data.images.unreadable import (
    Bad,
    BadImageError,
    candidates,
    content_of,
    none_of,
    unreadable,
)
from unmask.data.listing.listing import Listing
from unmask.data.listing.names import Names
from unmask.data.listing.stores import Folder, Store, Taken
from unmask.data.loading.in_memory import InMemory

__all__ = ["Files", "Folder", "Store", "Taken"]


@dataclass(frozen=True)
class Files:
    """One split that stays where it lies; images are read and decoded when asked for. Labels are -1 without classes."""

    store: Store
    labels_N: Int[Tensor, "N"]
    channels: int
    decode: Decode = "fast"

    def __len__(self) -> int:
        return len(self.store)


MEMORY_LIMIT = 2**30  # bytes of pixels a split may take to be held in memory
PEEK = 32
SLICE = 2048  # images a thread decodes in one go


class OddSizeError(ValueError):
    """An image has another size than the rest."""


def open_image(path: Path, channels: int) -> UInt8[Tensor, "C H W"]:
    """All of an image. .npy files hold uint8 arrays of (H, W) or (H, W, channels), for any number of channels.

    Raises ValueError with the path where the file cannot be read as that.
    """
    try:
        content = Folder(path.parent, Names((path.name,))).read(0)
    except OSError as error:
        raise unreadable(str(path), error) from error
    return whole(content, str(path), channels)


def whole(content: Content, name: str, channels: int) -> UInt8[Tensor, "C H W"]:
    return torch.from_numpy(
        decoded(opened(content, name, channels)).transpose(2, 0, 1).copy()
    )


def stored(files: Files, i: int) -> UInt8[Tensor, "C H W"]:
    """All of one of a split's images."""
    return whole(content_of(files.store, i), files.store.name(i), files.channels)


def folder_splits(
    listing: Listing,
    channels: int,
    shape: tuple[int, int],
    in_memory: bool | None,
    decode: Decode = "fast",
) -> tuple[InMemory | Files, InMemory | Files]:
    """(train, val); in_memory=None decides by the first files' sizes and the memory that all would take."""
    splits = [_files(listing, number, channels) for number in range(2)]
    if in_memory or (
        in_memory is None and all(_fits(split, shape) for split in splits)
    ):
        try:
            return _load(splits[0], shape), _load(splits[1], shape)
        except OddSizeError:
            if in_memory:
                raise
    return replace(splits[0], decode=decode), replace(splits[1], decode=decode)


def _files(listing: Listing, number: int, channels: int) -> Files:
    split = (listing.train, listing.val)[number]
    store = (
        listing.stores[number]
        if listing.stores
        else Folder(Path(listing.root), split.names)
    )
    return Files(store, torch.from_numpy(split.labels).long(), channels)


def _fits(files: Files, shape: tuple[int, int]) -> bool:
    """Small images only: all peeked ones have the wanted size, and all files together stay below the limit."""
    if len(files) * files.channels * shape[0] * shape[1] > MEMORY_LIMIT:
        return False
    every = max(1, len(files) // PEEK)
    return {_shape(files, i) for i in range(0, len(files), every)} - {None} == {shape}


def _shape(files: Files, i: int) -> tuple[int, int] | None:
    try:
        return (image := stored(files, i)).shape[1], image.shape[2]
    except BadImageError:
        return None


def _load(files: Files, shape: tuple[int, int]) -> InMemory:
    images = torch.empty((len(files), files.channels, *shape), dtype=torch.uint8)
    faults: dict[int, Bad] = {}

    def decode(start: int) -> None:
        for i in range(start, min(start + SLICE, len(files))):
            decode_one(i)

    def decode_one(i: int) -> None:
        try:
            image = stored(files, i)
        except BadImageError as error:
            faults[i] = Bad(i, error.name, error.reason)
            return
        if image.shape[1:] != shape:
            raise OddSizeError(
                f"{files.store.name(i)} is {image.shape[1]} x {image.shape[2]},"
                f" data.image_size is {shape[0]} x {shape[1]}; other sizes are read"
                " from disk and resized: set data.in_memory=false"
            )
        images[i] = image

    with ThreadPoolExecutor() as pool:
        list(pool.map(decode, range(0, len(files), SLICE)))
    return _filled(InMemory(images, files.labels_N.clone()), faults)


def _filled(held: InMemory, faults: dict[int, Bad]) -> InMemory:
    """With the very images that would stand in were all read from disk."""
    for i in sorted(faults):
        tried: list[Bad] = []
        for other in candidates(i, len(held)):
            if other not in faults:
                held.images_NCHW[i], held.labels_N[i] = (
                    held.images_NCHW[other],
                    held.labels_N[other],
                )
                break
            tried.append(faults[other])
        else:
            raise none_of(tried)
        held.bad[i] = tuple(tried)
    return held
