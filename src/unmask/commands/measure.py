"""One pass over the training images: mean and std of their pixels, their sizes and kinds, and those that are bad."""

import io
import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from jaxtyping import UInt8
from PIL import Image
from rich.console import Console
from rich.progress import track

from unmask.data.images.arrays import Content, is_array
from unmask.data.images.decoding import decoded, opened
from unmask.data.images.unreadable import BadImageError, content_of
from unmask.data.loading.folders import Files
from unmask.data.loading.in_memory import InMemory
from unmask.distributed.processes import available_cores
from unmask.randomness import make_key, permutation
from unmask.stages.plan import Plan
from unmask.storage.atomic import write_text
from unmask.training.build import load_splits

AT_ONCE = 256  # images between two looks of the progress bar
NAMED = 20  # bad files that are printed


class Sums(NamedTuple):
    """Of one image: exact integers, so that neither order nor threads matter."""

    pixels: int
    values_C: list[int]
    squares_C: list[int]
    size: tuple[int, int]
    kind: str


@dataclass
class Measured:
    """identity: of the data set. sizes: (height, width) of each image. kinds: modes of image files, or arrays."""

    identity: str
    source: str
    channels: int
    of: int
    pixels: int = 0
    values_C: list[int] = field(default_factory=list)
    squares_C: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    bad: list[BadImageError] = field(default_factory=list)

    @property
    def mean(self) -> list[float]:
        return [round(total / self.pixels / 255, 6) for total in self.values_C]

    @property
    def std(self) -> list[float]:
        """Of all pixels, not the mean of each image's; in integers, for the difference of two large numbers is left."""
        pairs = zip(self.values_C, self.squares_C, strict=True)
        return [
            round(math.sqrt(self.pixels * squares - total**2) / self.pixels / 255, 6)
            for total, squares in pairs
        ]

    def add(self, found: Sums | BadImageError) -> None:
        if isinstance(found, BadImageError):
            self.bad.append(found)
            return
        self.pixels += found.pixels
        self.values_C = [
            a + b
            for a, b in zip(
                self.values_C or [0] * self.channels, found.values_C, strict=True
            )
        ]
        self.squares_C = [
            a + b
            for a, b in zip(
                self.squares_C or [0] * self.channels, found.squares_C, strict=True
            )
        ]
        self.sizes.append(found.size)
        self.kinds[found.kind] += 1


def sums(image_HWC: UInt8[np.ndarray, "H W C"], kind: str) -> Sums:
    # integers below 2**53 are exact in float64, and its products are quick
    channels = [
        image_HWC[:, :, c].ravel().astype(np.float64) for c in range(image_HWC.shape[2])
    ]
    height, width = image_HWC.shape[:2]
    return Sums(
        height * width,
        [int(x.sum()) for x in channels],
        [int(x @ x) for x in channels],
        (height, width),
        kind,
    )


def one(split: InMemory | Files, i: int) -> Sums | BadImageError:
    if isinstance(split, InMemory):
        return sums(split.images_NCHW[i].permute(1, 2, 0).numpy(), "in memory")
    name = split.store.name(i)
    try:
        content = content_of(split.store, i)
        return sums(
            decoded(opened(content, name, split.channels)),
            kind_of(content, name, split.channels),
        )
    except BadImageError as error:
        return error


def kind_of(content: Content, name: str, channels: int) -> str:
    """Of the file itself: a mode of Pillow's (RGB, L, CMYK, ...), or an array of so many channels."""
    if not isinstance(content, bytes) or is_array(content, name):
        return f"array of {channels}"
    with Image.open(io.BytesIO(content)) as image:
        return image.mode


def measure(
    plan: Plan, images: int | None, threads: int | None, console: Console
) -> Measured:
    """Raises ValueError where no image can be read, or all pixels of a channel are alike."""
    data = plan.config.data
    plan.config.data.in_memory = None if plan.listing is None else False
    split, _ = load_splits(plan)
    ids = list(range(len(split)))
    if images is not None and images < len(split):
        ids = sorted(
            permutation(make_key(0, "statistics"), 0, len(split))[:images].tolist()
        )
    measured = Measured(plan.identity, data.source, data.channels, len(split))
    parts = [ids[k : k + AT_ONCE] for k in range(0, len(ids), AT_ONCE)]
    with ThreadPoolExecutor(threads or available_cores()) as pool:
        for part in track(
            parts, description="measuring", console=console, transient=True
        ):
            for found in pool.map(lambda i: one(split, i), part):
                measured.add(found)
    if not measured.pixels:
        raise ValueError(
            f"none of {len(ids)} images can be read; the first: {measured.bad[0]}"
        )
    if not all(measured.std):
        raise ValueError(
            f"all pixels of a channel are alike (std {measured.std}): there is nothing"
            " to normalise by"
        )
    return measured


def quartiles(measured: Measured) -> dict[str, list[int]]:
    """Least, lower quartile, median, upper quartile and most."""
    sizes = np.array(measured.sizes)
    found = np.percentile(sizes, [0, 25, 50, 75, 100], axis=0, method="nearest")
    return {"height": found[:, 0].tolist(), "width": found[:, 1].tolist()}


def keep(measured: Measured, out: Path | None, plan: Plan) -> Path:
    """Write the file that data.statistics takes."""
    seen = len(measured.sizes) + len(measured.bad)
    # which must not take the place of all
    some = f"-{seen}" if seen < measured.of else ""
    out = (
        out
        or Path(plan.config.runs_dir).expanduser()
        / "statistics"
        / f"{measured.identity}{some}.yaml"
    )
    content = {
        "identity": measured.identity,
        "source": measured.source,
        "channels": measured.channels,
        "mean": measured.mean,
        "std": measured.std,
        "images": len(measured.sizes),
        "of": measured.of,
        "sizes": quartiles(measured),
        "kinds": dict(measured.kinds.most_common()),
        "bad": [f"{error.name}: {error.reason}" for error in measured.bad],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(
        out,
        yaml.safe_dump(
            content,
            sort_keys=False,
            allow_unicode=True,
            width=120,
            default_flow_style=None,
        ),
    )
    return out


def said(measured: Measured) -> str:
    """All of it, for people."""
    lines = [
        f"{len(measured.sizes):,} of {measured.of:,} training images,"
        f" {measured.pixels:,} pixels"
    ]
    lines += [f"mean {measured.mean}", f"std  {measured.std}"]
    for name, values in quartiles(measured).items():
        lines.append(
            f"{name}: {values[0]} to {values[4]}, quartiles {values[1]}, {values[2]},"
            f" {values[3]}"
        )
    lines.append(
        "kinds:"
        f" {', '.join(f'{kind} {count:,}' for kind, count in measured.kinds.most_common())}"
    )
    if measured.bad:
        more = f", the first {NAMED}" if len(measured.bad) > NAMED else ""
        lines.append(f"{len(measured.bad):,} cannot be read{more}:")
        lines += [f"  {error.name}: {error.reason}" for error in measured.bad[:NAMED]]
    return "\n".join(lines)
