"""All ways of turning stored images into crops, as contestants of one benchmark."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from unmask.commands.bench.in_memory import in_memory_contestants
from unmask.commands.bench.measure import Contestant
from unmask.commands.bench.official_recipe import (
    official_evaluation,
    official_view,
    open_with_pillow,
)
from unmask.commands.bench.smaller_copies import make_smaller_copies
from unmask.data.augment.crops import Augmentation
from unmask.data.images import native
from unmask.data.images.decoding import DecodeMode
from unmask.data.loading.batch import ImageFormat
from unmask.data.loading.folders import StoredImages
from unmask.data.loading.in_memory import InMemory
from unmask.data.loading.views import Views

OFFICIAL = "official recipe"
OFFICIAL_EVALUATION = "official evaluation"
EVALUATION = "fast, evaluation"
# images that are copied in a smaller size, or augmented one by one: both take long
NUM_SMALL = 96
BATCH_SIZE = 64
AUGMENTATION = Augmentation("random", (0.2, 1.0), flip=True)
# these change images one by one, and Python's lock lets only one thread at a time do it
SLOW_AUGMENTATIONS = {
    "RandAugment (fine-tuning)": Augmentation(
        "random", (0.08, 1.0), flip=True, policy="rand-m9-mstd0.5"
    ),
    "colour jitter": Augmentation("random", (0.2, 1.0), flip=True, jitter=0.4),
}


def memory_contestants(
    split: InMemory, image_format: ImageFormat
) -> dict[str, Contestant]:
    """Return the ways of making crops of images in memory, the official one first."""
    contestants = in_memory_contestants(split, image_format)
    official = contestants.pop("torchvision, random resized crop")
    return {OFFICIAL: official, **contestants}


def file_contestants(
    split: StoredImages, image_format: ImageFormat, ids: list[int], folder: Path
) -> dict[str, Contestant]:
    """Return the ways of making uint8 crops of the same files, the official one first.

    The last ones read smaller copies of some of them, which are kept in `folder`.
    """
    native_decoder = native.region_decoder()
    contestants: dict[str, Contestant] = {
        OFFICIAL: Contestant(
            _official_round(split, official_view(image_format), ids), len(ids)
        )
    }
    for name, mode, decoder in _decoders(native_decoder):
        decoded = replace(split, decode=mode)
        read_round = _our_round(decoded, image_format, ids, decoder)
        contestants[name] = Contestant(read_round, len(ids))
    evaluated = _official_round(split, official_evaluation(image_format), ids)
    contestants[OFFICIAL_EVALUATION] = Contestant(evaluated, len(ids))
    read_round = _our_round(
        split, image_format, ids, native_decoder, image_format.evaluation
    )
    contestants[EVALUATION] = Contestant(read_round, len(ids))
    small_ids = ids[:NUM_SMALL]
    # RandAugment and colour jitter know only grey and colour images
    if split.channels in (1, 3):
        for name, augmentation in SLOW_AUGMENTATIONS.items():
            read_round = _our_round(
                split, image_format, small_ids, native_decoder, augmentation
            )
            contestants[f"fast, and {name}"] = Contestant(read_round, len(small_ids))
    jpegs, pixels = make_smaller_copies(
        split, min(image_format.shape), small_ids, folder
    )
    for name, copies in (
        ("fast, JPEGs stored at 8/7 of the size", jpegs),
        ("pixels stored at 8/7 of the size", pixels),
    ):
        copy_ids = list(range(len(small_ids)))
        read_round = _our_round(copies, image_format, copy_ids, native_decoder)
        contestants[name] = Contestant(read_round, len(copy_ids))
    return contestants


def _decoders(
    native_decoder: native.RegionDecoder | None,
) -> list[tuple[str, DecodeMode, native.RegionDecoder | None]]:
    """Return (name, decode mode, decoder) of all ways to decode the same files."""
    decoders: list[tuple[str, DecodeMode, native.RegionDecoder | None]] = [
        ("reference", "reference", None)
    ]
    if native_decoder:
        decoders += [
            ("fast, native decoder", "fast", native_decoder),
            ("scaled, native decoder", "scaled", native_decoder),
        ]
    return [
        *decoders,
        ("fast, simplejpeg", "fast", None),
        ("scaled, simplejpeg", "scaled", None),
    ]


def _official_round(
    split: StoredImages, view: Callable[[Image.Image], Tensor], ids: list[int]
) -> Callable[[int], Tensor]:
    def read_round(turn: int) -> Tensor:
        return torch.stack([view(open_with_pillow(split, i)) for i in ids])

    return read_round


def _our_round(
    split: StoredImages,
    image_format: ImageFormat,
    ids: list[int],
    decoder: native.RegionDecoder | None,
    augmentation: Augmentation = AUGMENTATION,
) -> Callable[[int], Any]:
    """Return a round that reads crops with `decoder`; None takes simplejpeg."""
    views = Views(split, image_format, augmentation, 0)

    def read_round(turn: int) -> None:
        original = native.region_decoder
        # replaced for one round only: contestants take turns in one process
        native.region_decoder = lambda: decoder  # type: ignore[assignment]
        try:
            for start in range(0, len(ids), BATCH_SIZE):
                batch = ids[start : start + BATCH_SIZE]
                # the turn stands for the epoch, so that each round has other crops
                views.__getitems__([(turn, i) for i in batch])
        finally:
            native.region_decoder = original

    return read_round
