"""Measure the training images in one pass: mean, std, sizes, kinds and bad images."""

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
from unmask.data.images.decoding import decode_image, read_header
from unmask.data.images.unreadable import BadImageError, read_content
from unmask.data.loading.folders import StoredImages
from unmask.data.loading.in_memory import InMemory
from unmask.distributed.processes import available_cores
from unmask.randomness import make_key, permutation
from unmask.stages.plan import Plan
from unmask.storage.atomic import write_text
from unmask.training.build import load_splits

CHUNK_SIZE = 256  # images between two updates of the progress bar
MAX_PRINTED = 20  # bad images that are printed by name


class ImageSums(NamedTuple):
    """Sums over the pixels of one image, in uint8 values.

    They are exact integers, so neither the order of images nor threads matter.
    size is (height, width); kind is what the file holds, such as RGB.
    """

    num_pixels: int
    sums_C: list[int]
    square_sums_C: list[int]
    size: tuple[int, int]
    kind: str


@dataclass
class PixelStatistics:
    """Collect the sums of all images of a data set.

    identity: that of the data set. num_listed: its training images, measured or not.
    sizes: (height, width) of each image. kinds: how many images of each kind.
    """

    identity: str
    source: str
    channels: int
    num_listed: int
    num_pixels: int = 0
    sums_C: list[int] = field(default_factory=list)
    square_sums_C: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    bad_images: list[BadImageError] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sums_C = self.sums_C or [0] * self.channels
        self.square_sums_C = self.square_sums_C or [0] * self.channels

    @property
    def mean(self) -> list[float]:
        """Return the mean of each channel, of values in [0, 1]."""
        return [round(total / self.num_pixels / 255, 6) for total in self.sums_C]

    @property
    def std(self) -> list[float]:
        """Return the std over all pixels of each channel, of values in [0, 1].

        This is not the mean of the images' stds.
        """
        stds = []
        for total, squares in zip(self.sums_C, self.square_sums_C, strict=True):
            # N sum(x^2) - sum(x)^2 is a small difference of large numbers: floats
            # would lose it, integers do not
            variance = self.num_pixels * squares - total**2
            stds.append(round(math.sqrt(variance) / self.num_pixels / 255, 6))
        return stds

    def add(self, image: ImageSums | BadImageError) -> None:
        if isinstance(image, BadImageError):
            self.bad_images.append(image)
            return
        self.num_pixels += image.num_pixels
        self.sums_C = _add(self.sums_C, image.sums_C)
        self.square_sums_C = _add(self.square_sums_C, image.square_sums_C)
        # kept one by one: quartiles need all of them
        self.sizes.append(image.size)
        self.kinds[image.kind] += 1


def _add(totals_C: list[int], values_C: list[int]) -> list[int]:
    return [a + b for a, b in zip(totals_C, values_C, strict=True)]


def sum_pixels(image_HWC: UInt8[np.ndarray, "H W C"], kind: str) -> ImageSums:
    # float64 holds integers below 2**53 exactly, and its dot product is fast
    channels = [
        image_HWC[:, :, c].ravel().astype(np.float64) for c in range(image_HWC.shape[2])
    ]
    height, width = image_HWC.shape[:2]
    return ImageSums(
        height * width,
        [int(values.sum()) for values in channels],
        [int(values @ values) for values in channels],
        (height, width),
        kind,
    )


def measure_image(split: InMemory | StoredImages, i: int) -> ImageSums | BadImageError:
    # data sets such as CIFAR are decoded already
    if isinstance(split, InMemory):
        return sum_pixels(split.images_NCHW[i].permute(1, 2, 0).numpy(), "in memory")
    name = split.store.name(i)
    try:
        content = read_content(split.store, i)
        image_HWC = decode_image(read_header(content, name, split.channels))
        return sum_pixels(image_HWC, image_kind(content, name, split.channels))
    except BadImageError as error:
        return error


def image_kind(content: Content, name: str, channels: int) -> str:
    """Return the mode of an image file (RGB, L, CMYK, ...), or say that it is an array.

    The mode is the file's own, before it is brought to `channels`.
    """
    if not isinstance(content, bytes) or is_array(content, name):
        return f"array of {channels}"
    with Image.open(io.BytesIO(content)) as image:
        return image.mode


def measure(
    plan: Plan, images: int | None, threads: int | None, console: Console
) -> PixelStatistics:
    """Measure all training images, or a random sample of `images` of them.

    Raises ValueError where no image can be read, or all pixels of a channel are equal.
    """
    data = plan.config.data
    # files are decoded here one by one and need not fit into memory
    plan.config.data.in_memory = None if plan.listing is None else False
    split, _ = load_splits(plan)
    ids = list(range(len(split)))
    if images is not None and images < len(split):
        # a fixed key: the same sample each time; sorted: files are read in order
        order = permutation(make_key(0, "statistics"), 0, len(split))
        ids = sorted(order[:images].tolist())
    statistics = PixelStatistics(
        plan.data_identity, data.source, data.channels, len(split)
    )
    chunks = [ids[k : k + CHUNK_SIZE] for k in range(0, len(ids), CHUNK_SIZE)]
    with ThreadPoolExecutor(threads or available_cores()) as pool:
        for chunk in track(
            chunks, description="measuring", console=console, transient=True
        ):
            for image in pool.map(lambda i: measure_image(split, i), chunk):
                statistics.add(image)
    if not statistics.num_pixels:
        raise ValueError(
            f"none of {len(ids)} images can be read; the first:"
            f" {statistics.bad_images[0]}"
        )
    if not all(statistics.std):
        raise ValueError(
            f"all pixels of a channel are equal (std {statistics.std}): there is"
            " nothing to normalise by"
        )
    return statistics


def size_quartiles(statistics: PixelStatistics) -> dict[str, list[int]]:
    """Return minimum, quartiles and maximum of the images' heights and widths."""
    quartiles = np.percentile(
        np.array(statistics.sizes), [0, 25, 50, 75, 100], axis=0, method="nearest"
    )
    return {"height": quartiles[:, 0].tolist(), "width": quartiles[:, 1].tolist()}


def write_statistics(statistics: PixelStatistics, out: Path | None, plan: Plan) -> Path:
    """Write the file that data.statistics= reads, and return its path.

    By default it goes to <runs_dir>/statistics/<identity>.yaml.
    """
    if out is None:
        folder = Path(plan.config.runs_dir).expanduser() / "statistics"
        num_measured = len(statistics.sizes) + len(statistics.bad_images)
        # a sample must not overwrite the statistics of all images
        is_sample = num_measured < statistics.num_listed
        sample = f"-{num_measured}" if is_sample else ""
        out = folder / f"{statistics.identity}{sample}.yaml"
    content = {
        "identity": statistics.identity,
        "source": statistics.source,
        "channels": statistics.channels,
        "mean": statistics.mean,
        "std": statistics.std,
        "images": len(statistics.sizes),
        "of": statistics.num_listed,
        "sizes": size_quartiles(statistics),
        "kinds": dict(statistics.kinds.most_common()),
        "bad": [f"{error.name}: {error.reason}" for error in statistics.bad_images],
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


def describe_statistics(statistics: PixelStatistics) -> str:
    """Return the statistics as lines for the terminal."""
    lines = [
        f"{len(statistics.sizes):,} of {statistics.num_listed:,} training images,"
        f" {statistics.num_pixels:,} pixels",
        f"mean {statistics.mean}",
        f"std  {statistics.std}",
    ]
    for name, values in size_quartiles(statistics).items():
        lines.append(
            f"{name}: {values[0]} to {values[4]}, quartiles {values[1]}, {values[2]},"
            f" {values[3]}"
        )
    kinds = [f"{kind} {count:,}" for kind, count in statistics.kinds.most_common()]
    lines.append(f"kinds: {', '.join(kinds)}")
    bad_images = statistics.bad_images
    if bad_images:
        rest = f", the first {MAX_PRINTED}" if len(bad_images) > MAX_PRINTED else ""
        lines.append(f"{len(bad_images):,} cannot be read{rest}:")
        lines += [
            f"  {error.name}: {error.reason}" for error in bad_images[:MAX_PRINTED]
        ]
    return "\n".join(lines)
