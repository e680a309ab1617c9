"""The section `data` of the config: which images, and how they are read."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    Field,
    PlainSerializer,
    PrivateAttr,
    ValidationInfo,
    WrapValidator,
    field_validator,
    model_validator,
)

from unmask.config.datasets import (
    DATASETS,
    INSTALLED_DATASETS,
    Arrays,
    check_foreign_dataset,
    find_dataset,
)
from unmask.config.section import (
    Count,
    PathText,
    PositiveFraction,
    Section,
    height_and_width,
)
from unmask.config.statistics import (
    UnitInterval,
    UnitStd,
    parse_per_channel,
    parse_range,
    resolve_statistics,
)

Decode = Literal["auto", "fast", "scaled", "reference", "nvjpeg"]
if TYPE_CHECKING:
    DataSource = str
else:
    # the type of the table's names, of which messages and docs/config.md list all
    DataSource = Annotated[
        Literal[tuple(DATASETS)],
        WrapValidator(lambda value, check: parse_source(value, check)),
        PlainSerializer(str),
    ]
Container = Literal["folder", "webdataset", "parquet", "litdata", "raw"]
# what the patch size of data.patch_size=null respects: pixels, and patches a side
MAX_PATCH = 16
MIN_GRID = 8
# pixels; fine-tuning above it sees whole images, as in the official port
STANDARD_SIZE = 224


class Data(Section):
    source: DataSource = Field(
        description=(
            "the data set, or how a folder of your own is laid out; or `module.NAME`"
            " of a Dataset of yours (docs/extending.md)"
        )
    )
    root: PathText | None = Field(
        description=(
            f"folder with the images; {', '.join(INSTALLED_DATASETS)} comes with the"
            " install"
        )
    )
    download: bool = Field(
        description="let torchvision download the data set if it is missing (CIFAR)"
    )
    image_size: tuple[Count, Count] = Field(
        description=(
            "size in pixels of the images that the model sees: one number, or [height,"
            " width]"
        )
    )
    patch_size: Count | None = Field(
        description=(
            "side of a patch in pixels; null: the model's own at 224 pixels, otherwise"
            " chosen to fit image_size"
        )
    )
    channels: Count = Field(
        description=("1 grey, 3 RGB, 4 RGBA; any other number from .npy and TIFF files")
    )
    range: list[tuple[float, float]] | Literal["measured"] | None = Field(
        default=None,
        description=(
            "values that become 0 and 1: [low, high], or such a pair for each channel;"
            " `measured`: those in data.statistics; null: the type's own (255 of 8"
            " bits, 65535 of 16, [0, 1] of floats)"
        ),
    )
    mean: list[UnitInterval] | None = Field(
        description=(
            "mean of each channel, for pixels in [0, 1]; null: ImageNet's for 3"
            " channels, otherwise 0.5 (docs/images.md)"
        )
    )
    std: list[UnitStd] | None = Field(
        description=(
            "standard deviation of each channel, for pixels in [0, 1]; null: ImageNet's"
            " for 3 channels, otherwise 0.25"
        )
    )
    statistics: PathText | None = Field(
        description=(
            "file of src/measure.py with mean, std and range of these images, in place"
            " of data.mean and data.std"
        )
    )
    flip: bool = Field(
        description=(
            "whether a mirrored image still belongs to the same class (false for"
            " digits); most values of augment.flip follow it"
        )
    )
    eval_crop: PositiveFraction = Field(
        description=(
            "side of the centre crop for evaluation, as a fraction of the image (0.875:"
            " 224 of 256 pixels)"
        )
    )
    eval_view: Literal["port", "whole_pixels"] = Field(
        default="port",
        description=(
            "how the centre is cut out: port (the official code's Resize and"
            " CenterCrop, between pixels), or whole_pixels (a box that is rounded to"
            " pixels and then resized, as before version 0.2)"
        ),
    )
    holdout: Annotated[float, Field(gt=0, le=0.5)] = Field(
        description=(
            "fraction of the images held out for validation if the folder has no val/"
            " or test/"
        )
    )
    # the pixels are the same from memory and from the device
    in_memory: bool | Literal["device"] | None = Field(
        description=(
            "true: decode all images once into memory; `device`: into the memory of"
            " each training device; false: read them from disk; null: decide by their"
            " size and the device"
        )
    )
    decode: Decode = Field(
        description=(
            "how image files are decoded; `fast` (also `auto`): with the fastest"
            " decoder installed; `scaled`: JPEGs at 1/2 to 1/8 of their size for large"
            " crops; `reference`: by Pillow only; `nvjpeg`: on the training GPU"
        )
    )
    # below it another image of the split stands in for one that cannot be read
    bad_limit: Annotated[float, Field(ge=0, le=1)] = Field(
        description=(
            "end the run if more than this fraction of a split's images cannot be read"
            " (image_folder); 0: at the first one"
        )
    )
    num_workers: Annotated[int, Field(ge=0)] | None = Field(
        description=(
            "loader worker processes; null: chosen by the number of cores and threads"
        )
    )
    threads: Count | None = Field(
        description=(
            "decoding threads in each loader worker; null: up to 4, by the number of"
            " cores"
        )
    )

    # the data set that mean and std were measured on, None where nobody knows
    _statistics_identity: str | None = PrivateAttr(default=None)

    @field_validator("image_size", mode="before")
    @classmethod
    def parse_image_size(cls, value: Any) -> Any:
        return height_and_width(value)

    @field_validator("range", mode="before")
    @classmethod
    def parse_range(cls, value: Any) -> Any:
        return parse_range(value)

    @field_validator("mean", "std", mode="before")
    @classmethod
    def parse_per_channel(cls, value: Any, info: ValidationInfo) -> Any:
        return parse_per_channel(f"data.{info.field_name}", value)

    @model_validator(mode="after")
    def check_channels(self) -> "Data":
        expected = self.arrays.channels if self.arrays else self.channels
        if self.channels != expected:
            raise ValueError(
                f"data.channels={self.channels}: {self.source} has {expected}; set"
                f" data.channels={expected}"
            )
        return self

    @model_validator(mode="after")
    def fill_statistics(self) -> "Data":
        resolved = resolve_statistics(
            self.statistics, self.mean, self.std, self.range, self.channels
        )
        self.mean = list(resolved.mean)
        self.std = list(resolved.std)
        self.range = resolved.range
        self._statistics_identity = resolved.identity
        # results depend on the values, not on the file that they came from
        self.statistics = None
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise ValueError(
                    f"data.{name} has {len(values)} values for"
                    f" data.channels={self.channels}; give one value for each channel"
                )
        return self

    @model_validator(mode="after")
    def check_source(self) -> "Data":
        if self.arrays:
            if self.range:
                raise ValueError(
                    f"data.range={self.range}: {self.source} is of 8 bits and has its"
                    " range; set data.range=null"
                )
            if self.in_memory is False:
                raise ValueError(
                    f"data.in_memory=false: {self.source} is held in memory in any"
                    " case; set data.in_memory to null, true or device"
                )
        elif not self.root:
            raise ValueError(
                f"data.root: missing; data.source={self.source} reads images from a"
                " folder; add data.root=/path/to/images"
            )
        return self

    @property
    def arrays(self) -> Arrays | None:
        """Return what is known of a data set that comes as arrays; None of others."""
        return find_dataset(self.source).arrays

    def eval_crop_at(self, shape: tuple[int, int]) -> float:
        """Return the share of a stage whose images are of (height, width) pixels.

        Fine-tuned above 224 pixels, images are evaluated whole: there the official
        port's crop ratio is 1.
        """
        is_larger = shape != self.image_size and max(shape) > STANDARD_SIZE
        return 1.0 if is_larger else self.eval_crop

    @property
    def is_foreign(self) -> bool:
        """Return whether a file of the user's describes the data set."""
        return self.source not in DATASETS

    @property
    def ranges(self) -> tuple[tuple[float, float], ...] | None:
        """Return (low, high) of each channel, or one for all; None: the type's own."""
        return tuple(self.range) if isinstance(self.range, list) else None

    @property
    def statistics_identity(self) -> str | None:
        """Return the identity of the data set that mean and std were measured on."""
        return self._statistics_identity


def resized_side(side: int, share: float) -> int:
    """Return the side that is resized to before the centre is cut out.

    With a share of 0.875 that is 256 for 224. Fractions are cut off, as in the official
    code and timm.
    """
    return int(side / share)


def is_whole(size: tuple[int, int], shape: tuple[int, int], share: float) -> bool:
    """Return whether evaluation sees the whole image, whatever the rounding."""
    return share == 1 and size[0] * shape[1] == size[1] * shape[0]


def parse_source(value: Any, check: Callable[[Any], str]) -> str:
    """Return the name of a data set of the table, or of one of the user's."""
    if isinstance(value, str) and "." in value:
        return check_foreign_dataset(value)
    return check(value)


def default_patch_size(image_size: tuple[int, int], size_at_224: int) -> int:
    """Choose the side of a patch for images of (height, width) pixels.

    At 224 pixels it is the model's own; otherwise the largest divisor up to 16 that
    leaves a grid of 8 x 8 patches or more. Raises ValueError where the divisors are so
    small that the model would see more than four times as many patches as it should.
    """
    if image_size == (224, 224):
        return size_at_224
    wanted = _wanted_patch_size(image_size)
    divisors = [p for p in range(1, wanted + 1) if all(s % p == 0 for s in image_size)]
    largest = divisors[-1]
    if 2 * largest >= wanted:
        return largest
    height, width = image_size
    patches = height * width // largest**2
    nearest = ", ".join(
        f"{_one_or_both(size)} (patch {patch})"
        for size, patch in _nearest_sizes(image_size)
    )
    raise ValueError(
        f"data.image_size = {_one_or_both(image_size)}: the largest patch that"
        f" divides it, {largest} x {largest} pixels, makes {patches:,} patches; nearest"
        f" image sizes: {nearest}; or set data.patch_size={largest}"
    )


def _wanted_patch_size(image_size: tuple[int, int]) -> int:
    """Return the largest patch size that leaves a large enough grid."""
    return max(1, min(MAX_PATCH, min(image_size) // MIN_GRID))


def _nearest_sizes(image_size: tuple[int, int]) -> list[tuple[tuple[int, int], int]]:
    """Return the three nearest image sizes that patches divide, with their patch."""
    sizes = {}
    wanted = _wanted_patch_size(image_size)
    for patch in range(-(-wanted // 2), wanted + 2):
        height, width = (max(1, round(side / patch)) * patch for side in image_size)
        # the largest patch of a size remains
        if patch <= _wanted_patch_size((height, width)):
            sizes[height, width] = patch

    def distance(size: tuple[int, int]) -> int:
        return sum(abs(a - b) for a, b in zip(size, image_size, strict=True))

    return sorted(sizes.items(), key=lambda each: (distance(each[0]), -each[1]))[:3]


def _one_or_both(size: tuple[int, int]) -> str:
    height, width = size
    return str(height) if height == width else f"[{height},{width}]"
