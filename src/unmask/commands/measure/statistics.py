"""Measure the training images in one pass: range, mean, std, sizes, kinds, bad images.

Mean and std are of the shares of the range: data.range, or for images of more than 8
bits the smallest and the largest value of each channel.
"""

import io
import itertools
import math
import operator
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from jaxtyping import Shaped
from PIL import Image
from rich.console import Console
from rich.progress import track

from unmask.config.statistics import parse_range
from unmask.data.images.arrays import is_array
from unmask.data.images.decoding import EncodedImage, decode_values
from unmask.data.images.depth import Ranges, narrow_note
from unmask.data.images.unreadable import BadImageError
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
    """Sums over the pixels of one image, in the values that its file holds.

    Those of 8 and 16 bits are exact integers, so neither the order of images nor
    threads matter. low, high: the smallest and the largest value of each channel.
    size is (height, width); kind is what the file holds, such as RGB.
    """

    num_pixels: int
    sums_C: list[float]
    square_sums_C: list[float]
    low_C: list[float]
    high_C: list[float]
    dtype: np.dtype
    size: tuple[int, int]
    kind: str


@dataclass
class PixelStatistics:
    """Collect the sums of all images of a data set.

    identity: that of the data set. num_listed: its training images, measured or not.
    sizes: (height, width) of each image. kinds: how many images of each kind.
    dtypes: the types of their values. given: data.range.
    """

    identity: str
    source: str
    channels: int
    num_listed: int
    given: Ranges | None = None
    num_pixels: int = 0
    sums_C: list[float] = field(default_factory=list)
    square_sums_C: list[float] = field(default_factory=list)
    low_C: list[float] = field(default_factory=list)
    high_C: list[float] = field(default_factory=list)
    dtypes: set[np.dtype] = field(default_factory=set)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    bad_images: list[BadImageError] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sums_C = self.sums_C or [0] * self.channels
        self.square_sums_C = self.square_sums_C or [0] * self.channels
        self.low_C = self.low_C or [math.inf] * self.channels
        self.high_C = self.high_C or [-math.inf] * self.channels

    @property
    def ranges(self) -> Ranges | None:
        """Return what data.range should be; None for 8 bits that are filled."""
        is_bytes = self.dtypes <= {np.dtype(np.uint8)}
        if self.given or (is_bytes and not self.narrow_note):
            return self.given
        found = parse_range(list(zip(self.low_C, self.high_C, strict=True)))
        return tuple(found)

    @property
    def narrow_note(self) -> str | None:
        """Say where the values fill little of the range that they have now."""
        low, high = min(self.low_C), max(self.high_C)
        return narrow_note(low, high, self.given, self.dtypes)

    @property
    def _ends_of_channels(self) -> Iterator[tuple[float, float]]:
        ranges = self.ranges or ((0, 255),)
        return itertools.islice(itertools.cycle(ranges), self.channels)

    @property
    def mean(self) -> list[float]:
        """Return the mean of each channel, of shares of the range."""
        return [
            round((total / self.num_pixels - low) / (high - low), 6)
            for total, (low, high) in zip(
                self.sums_C, self._ends_of_channels, strict=True
            )
        ]

    @property
    def std(self) -> list[float]:
        """Return the std over all pixels of each channel, of shares of the range.

        This is not the mean of the images' stds.
        """
        stds = []
        for total, squares, (low, high) in zip(
            self.sums_C, self.square_sums_C, self._ends_of_channels, strict=True
        ):
            # N sum(x^2) - sum(x)^2 is a small difference of large numbers: floats
            # would lose it, integers do not
            variance = max(0, self.num_pixels * squares - total**2)
            stds.append(round(math.sqrt(variance) / self.num_pixels / (high - low), 6))
        return stds

    def add(self, image: ImageSums | BadImageError) -> None:
        if isinstance(image, BadImageError):
            self.bad_images.append(image)
            return
        self.num_pixels += image.num_pixels
        self.sums_C = list(map(operator.add, self.sums_C, image.sums_C))
        self.square_sums_C = list(
            map(operator.add, self.square_sums_C, image.square_sums_C)
        )
        self.low_C = list(map(min, self.low_C, image.low_C))
        self.high_C = list(map(max, self.high_C, image.high_C))
        self.dtypes.add(image.dtype)
        # kept one by one: quartiles need all of them
        self.sizes.append(image.size)
        self.kinds[image.kind] += 1


def sum_pixels(
    image_HWC: Shaped[np.ndarray, "H W C"], kind: str, ranges: Ranges | None = None
) -> ImageSums:
    """Sum up the values of an image, clipped to the ranges.

    Raises ValueError where a value is no finite number.
    """
    exact = _exact_type(image_HWC.dtype)
    channels: list[np.ndarray] = [
        image_HWC[:, :, c].ravel().astype(exact) for c in range(image_HWC.shape[2])
    ]
    if ranges:
        ends = itertools.cycle(ranges)
        channels = [values.clip(*next(ends)) for values in channels]
    if not all(np.isfinite(values).all() for values in channels):
        raise ValueError(
            "it holds values that are not finite; fill them with a number, or set"
            " data.range for infinite ones"
        )
    height, width = image_HWC.shape[:2]
    return ImageSums(
        height * width,
        [values.sum().item() for values in channels],
        [(values @ values).item() for values in channels],
        [values.min().item() for values in channels],
        [values.max().item() for values in channels],
        image_HWC.dtype,
        (height, width),
        kind,
    )


def _exact_type(dtype: np.dtype) -> type:
    """Return a type in which squares can be summed, exactly for 8 and 16 bits."""
    # float64 holds integers below 2**53 exactly, and its dot product is fast
    is_short = np.issubdtype(dtype, np.integer) and dtype.itemsize == 2
    return np.int64 if is_short else np.float64


def measure_image(split: InMemory | StoredImages, i: int) -> ImageSums | BadImageError:
    # data sets such as CIFAR are decoded already
    if isinstance(split, InMemory):
        return sum_pixels(split.images_NCHW[i].permute(1, 2, 0).numpy(), "in memory")
    try:
        image = split.read_header(i)
        values_HWC = decode_values(image)
        kind = image_kind(image, values_HWC.dtype)
        return sum_pixels(values_HWC, kind, split.ranges)
    except BadImageError as error:
        return error
    except ValueError as error:
        return BadImageError(split.store.name(i), error)


def image_kind(image: EncodedImage, dtype: np.dtype) -> str:
    """Return the mode of an image file (RGB, L, CMYK, ...), or the type of its values.

    The mode is the file's own, before it is brought to data.channels.
    """
    content = image.content
    is_deep = dtype != np.uint8
    if not isinstance(content, bytes) or is_array(content, image.name) or is_deep:
        return f"{f'{dtype} ' if is_deep else ''}array of {image.channels}"
    with Image.open(io.BytesIO(content)) as opened:
        return opened.mode


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
        plan.data_identity, data.source, data.channels, len(split), data.ranges
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
    lows, highs = statistics.low_C, statistics.high_C
    is_equal = any(low == high for low, high in zip(lows, highs, strict=True))
    if is_equal or not all(statistics.std):
        raise ValueError(
            f"all pixels of a channel are equal ({lows} to {highs}): there is nothing"
            " to normalise by"
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
        folder = Path(plan.config.runs_dir) / "statistics"
        num_measured = len(statistics.sizes) + len(statistics.bad_images)
        # a sample must not overwrite the statistics of all images
        is_sample = num_measured < statistics.num_listed
        sample = f"-{num_measured}" if is_sample else ""
        out = folder / f"{statistics.identity}{sample}.yaml"
    ranges = statistics.ranges
    content = {
        "identity": statistics.identity,
        "source": statistics.source,
        "channels": statistics.channels,
        **({"range": list(map(list, ranges))} if ranges else {}),
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


def describe_range(statistics: PixelStatistics) -> Iterator[str]:
    """Yield which values there are, and the line to type for more than 8 bits."""
    low, high = min(statistics.low_C), max(statistics.high_C)
    yield f"values from {low:g} to {high:g} ({', '.join(map(str, statistics.dtypes))})"
    if statistics.narrow_note:
        yield f"warning: {statistics.narrow_note}"
    ranges = statistics.ranges
    if ranges:
        pairs = [f"[{low:.9g},{high:.9g}]" for low, high in ranges]
        typed = pairs[0] if len(pairs) == 1 else f"[{','.join(pairs)}]"
        numbers = f"data.mean={statistics.mean} data.std={statistics.std}"
        # without blanks a shell takes it as it is
        yield f"to type: data.range={typed} {numbers.replace(', ', ',')}"


def describe_statistics(statistics: PixelStatistics) -> str:
    """Return the statistics as lines for the terminal."""
    lines = [
        f"{len(statistics.sizes):,} of {statistics.num_listed:,} training images,"
        f" {statistics.num_pixels:,} pixels",
        f"mean {statistics.mean}",
        f"std  {statistics.std}",
        *describe_range(statistics),
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
