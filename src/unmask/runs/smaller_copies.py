"""Copies of some images, as small as training needs them, for a bench to read."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from unmask.data.decoding import decoded, opened, resized
from unmask.data.stores import Files

PRESIZED = 256 / 224  # short side of what is stored, over that of what is seen
QUALITY = 90


@dataclass(frozen=True)
class Held:
    """A store in memory or in a memory map: contents as they are, bytes or pixels."""

    contents: Sequence[Any]
    suffix: str

    def __len__(self) -> int:
        return len(self.contents)

    def name(self, i: int) -> str:
        return f"{i}{self.suffix}"

    def read(self, i: int) -> Any:
        return self.contents[i]


def smaller_copies(split: Files, seen: int, ids: list[int], place: Path) -> tuple[Files, Files]:
    """Copies whose short side is 8/7 of what the model sees: as JPEGs, and as pixels in a memory map."""
    side, contents, images = round(PRESIZED * seen), [], []
    for i in ids:
        whole = decoded(opened(split.store.read(i), split.store.name(i), split.channels))
        share = min(1.0, side / min(whole.shape[:2]))
        height, width = (max(side, round(share * length)) for length in whole.shape[:2])
        images.append(np.ascontiguousarray(resized(whole, (0, 0, *whole.shape[:2]), (height, width))))
        file = io.BytesIO()
        Image.fromarray(images[-1].squeeze()).save(file, "JPEG" if split.channels < 4 else "PNG", quality=QUALITY)
        contents.append(file.getvalue())
    (place / "pixels").write_bytes(b"".join(image.tobytes() for image in images))
    ends = np.cumsum([0, *(image.size for image in images)])
    flat = np.memmap(place / "pixels", dtype=np.uint8, mode="c")
    pixels = [flat[a:b].reshape(i.shape) for a, b, i in zip(ends, ends[1:], images, strict=False)]
    labels = torch.full((len(ids),), -1)
    return Files(Held(contents, ".jpg"), labels, split.channels), Files(Held(pixels, ""), labels, split.channels)
