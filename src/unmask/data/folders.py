"""Folders of images of any size: decoded once into memory where all are small and of one size, else read as needed."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from unmask.data.listing import Listing
from unmask.data.sources import InMemory

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
MEMORY_LIMIT = 2**30  # bytes of pixels a split may take to be held in memory
PEEK = 32
SLICE = 2048  # images a thread decodes in one go


class OddSizeError(ValueError):
    """An image has another size than the rest."""


@dataclass(frozen=True)
class Files:
    """One split as paths; images are decoded when asked for."""

    paths: tuple[Path, ...]
    labels_N: Tensor
    channels: int

    def __len__(self) -> int:
        return len(self.paths)


def open_image(path: Path, channels: int) -> UInt8[Tensor, "C H W"]:
    """Decode to the asked number of channels, upright (EXIF) and with 16-bit grey scaled, not clipped.

    .npy files hold uint8 arrays of (H, W) or (H, W, channels), for any number of channels.
    Raises ValueError with the path where the file cannot be read as that.
    """
    try:
        array = np.load(path) if path.suffix == ".npy" else _decode(path, channels)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as an image ({error}); mend or remove the file") from error
    array = array[:, :, None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] != channels or array.dtype != np.uint8:
        raise ValueError(f"{path} holds {array.dtype} of shape {array.shape}; data.channels={channels} needs uint8 HWC")
    return torch.from_numpy(array.transpose(2, 0, 1).copy())


def _decode(path: Path, channels: int) -> np.ndarray:
    if channels not in MODES:
        raise ValueError(f"image files have 1, 3 or 4 channels, not {channels}; use .npy arrays")
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode == "F":  # Pillow would clip 0..1 to black
            raise ValueError("its pixels are floating point; save it as 8 or 16 bits, or as a uint8 .npy array")
        if upright.mode.startswith("I"):  # Pillow would clip 16 bits at 255: nearly all white
            upright = Image.fromarray((np.asarray(upright) // 257).clip(0, 255).astype(np.uint8))
        return np.asarray(upright.convert(MODES[channels]))


def folder_splits(
    listing: Listing, channels: int, shape: tuple[int, int], in_memory: bool | None
) -> tuple[InMemory | Files, InMemory | Files]:
    """(train, val); in_memory=None decides by the first files' sizes and the memory that all would take."""
    splits = [_files(listing, split, channels) for split in (listing.train, listing.val)]
    if in_memory or (in_memory is None and all(_fits(split, shape) for split in splits)):
        try:
            return _load(splits[0], shape), _load(splits[1], shape)
        except OddSizeError:
            if in_memory:
                raise
    return splits[0], splits[1]


def _files(listing: Listing, split: Sequence[tuple[str, int]], channels: int) -> Files:
    paths = tuple(listing.root / name for name, _ in split)
    return Files(paths, torch.tensor([label for _, label in split]), channels)


def _fits(files: Files, shape: tuple[int, int]) -> bool:
    """Small images only: all peeked ones have the wanted size, and all files together stay below the limit."""
    if len(files) * files.channels * shape[0] * shape[1] > MEMORY_LIMIT:
        return False
    every = max(1, len(files) // PEEK)
    return all(open_image(path, files.channels).shape[1:] == shape for path in files.paths[::every])


def _load(files: Files, shape: tuple[int, int]) -> InMemory:
    images = torch.empty((len(files), files.channels, *shape), dtype=torch.uint8)

    def decode(start: int) -> None:
        for i in range(start, min(start + SLICE, len(files))):
            decode_one(i)

    def decode_one(i: int) -> None:
        image = open_image(files.paths[i], files.channels)
        if image.shape[1:] != shape:
            raise OddSizeError(
                f"{files.paths[i]} is {image.shape[1]} x {image.shape[2]}, others are {shape[0]} x {shape[1]}; "
                f"images of several sizes are read from disk: set data.in_memory=false"
            )
        images[i] = image

    with ThreadPoolExecutor() as pool:
        list(pool.map(decode, range(0, len(files), SLICE)))
    return InMemory(images, files.labels_N)
