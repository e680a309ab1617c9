"""The parts of a run that are swapped as a whole: masking, target, loggers."""

import re
from collections.abc import Iterator
from math import gcd, prod
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
)

from unmask.config.foreign import check_part, is_foreign
from unmask.config.section import Count, Positive, Section

# rows and columns of patches
Grid = tuple[int, int]
MASKING_MEANING = "set by masking=random, block, grid or coarse"
TARGET_MEANING = "set by target=pixel, pixel_norm, pixel_l1, pca, dvae or hog"
# by wandb's Settings.validate_project
WANDB_REFUSES = "/\\#?%:"
MAX_WANDB_NAME = 128
# of tags: messages leave parts of a key out that hold the project's name
OWN, FOREIGN = "unmask.own", "unmask.foreign"
# the side of a block of patches, as a share of the grid's
PIXIO_BLOCK = 4 / 16


class Part:
    """What most maskings and targets have: no null to complete, and no misfit."""

    # of a target: whether it gets the tokenizer of the section `tokenizer`
    takes_tokenizer: ClassVar[bool] = False

    def complete(self, *_: Any) -> None:
        """Replace null by what it stands for, of the grid or of a patch's values."""

    def misfits(self, *_: Any) -> Iterator[str]:
        """Yield an error message for each value that does not fit the config."""
        yield from ()


class ForeignPart(Part, Section):
    """A sampler or a target from a file of the user's (docs/extending.md).

    Its other keys are what its class is called with.
    """

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    target_: str = Field(
        alias="_target_",
        description="or `module.name` of a class of yours (docs/extending.md)",
    )

    @field_validator("target_")
    @classmethod
    def check_name(cls, value: str) -> str:
        check_part(value)
        return value

    def count_visible(self, grid: Grid, mask_ratio: float) -> int | None:
        return None


def choose_tag(value: Any) -> str:
    """Tell whether the part that `_target_` names is this project's."""
    typed = (
        value.get("_target_", value.get("target_"))
        if isinstance(value, dict)
        else (getattr(value, "target_", None))
    )
    return FOREIGN if isinstance(typed, str) and is_foreign(typed) else OWN


# Members that all maskings have, beside their options: how many patches stay visible
# (None: only the sampler knows), and what does not fit the config.


class RandomMasking(Part, Section):
    target_: Literal["unmask.masking.RandomMasking"] = Field(
        alias="_target_", description=MASKING_MEANING
    )

    def count_visible(self, grid: Grid, mask_ratio: float) -> int | None:
        return _kept(grid, mask_ratio)


class GridMasking(Part, Section):
    """One patch of each 2 x 2, also of those cut off at the border."""

    target_: Literal["unmask.masking.GridMasking"] = Field(
        alias="_target_", description=MASKING_MEANING
    )

    def count_visible(self, grid: Grid, mask_ratio: float) -> int | None:
        rows, cols = grid
        return -(-rows // 2) * -(-cols // 2)

    def misfits(self, grid: Grid, mask_ratio: float) -> Iterator[str]:
        if mask_ratio != 0.75:
            yield (
                f"mask_ratio = {mask_ratio}: masking=grid keeps one patch of each 2 x 2"
                " cell; set mask_ratio=0.75"
            )


class BlockMasking(Part, Section):
    target_: Literal["unmask.masking.BlockMasking"] = Field(
        alias="_target_", description=MASKING_MEANING
    )
    min_patches: Count | None = Field(
        description=(
            "number of patches in the smallest block; null: BEiT's 16 of 196, scaled"
            " to the grid"
        )
    )

    def count_visible(self, grid: Grid, mask_ratio: float) -> int | None:
        return _kept(grid, mask_ratio)

    def misfits(self, grid: Grid, mask_ratio: float) -> Iterator[str]:
        hidden = prod(grid) - _kept(grid, mask_ratio)
        if self.min_patches and self.min_patches > hidden:
            yield (
                f"masking.min_patches = {self.min_patches}: only {hidden} patches are"
                f" hidden; set masking.min_patches={hidden} or less"
            )


def _kept(grid: Grid, mask_ratio: float) -> int:
    """Repeat `unmask.masking.num_visible`, which imports torch."""
    return round(prod(grid) * (1 - mask_ratio))


class CoarseMasking(Part, Section):
    target_: Literal["unmask.coarse_masking.CoarseMasking"] = Field(
        alias="_target_", description=MASKING_MEANING
    )
    block: Count | None = Field(
        description=(
            "side of the squares of patches that are hidden together; null: a quarter"
            " of the grid's, as Pixio's 4 of 16"
        )
    )

    def complete(self, grid: Grid) -> None:
        if self.block is None:
            self.block = coarse_block(grid)

    def count_visible(self, grid: Grid, mask_ratio: float) -> int | None:
        assert self.block is not None
        unit = self.block**2
        return unit * round(prod(grid) / unit * (1 - mask_ratio))

    def misfits(self, grid: Grid, mask_ratio: float) -> Iterator[str]:
        assert self.block is not None
        common = gcd(*grid)
        if common % self.block:
            fitting = [side for side in range(1, common + 1) if common % side == 0]
            yield (
                f"masking.block = {self.block}: does not divide a grid of {grid[0]} x"
                f" {grid[1]} patches; blocks that do: {', '.join(map(str, fitting))}"
            )


def coarse_block(grid: tuple[int, int]) -> int:
    """Return the side of a square of patches that fits the grid, near a quarter of it.

    Pixio's (Yang et al. 2025): 4 of 16 patches.
    """
    rows, cols = grid
    common = gcd(rows, cols)
    sides = [side for side in range(1, common + 1) if common % side == 0]
    return min(sides, key=lambda side: abs(side - PIXIO_BLOCK * min(grid)))


# `_target_` says which of the classes a section is checked against
OwnMasking = Annotated[
    RandomMasking | GridMasking | BlockMasking | CoarseMasking,
    Field(discriminator="target_"),
]
Masking = Annotated[
    Annotated[OwnMasking, Tag(OWN)] | Annotated[ForeignPart, Tag(FOREIGN)],
    Discriminator(choose_tag),
]


# the target of the default config, with or without normalisation per patch
class PixelTarget(Part, Section):
    target_: Literal[
        "unmask.targets.Pixel",
        "unmask.targets.NormalisedPixel",
        "unmask.targets.AbsolutePixel",
    ] = Field(alias="_target_", description=TARGET_MEANING)


class PCATarget(Part, Section):
    target_: Literal["unmask.targets.PatchPCA"] = Field(
        alias="_target_", description=TARGET_MEANING
    )
    components: Count | None = Field(
        description=(
            "number of principal components to predict; null: 1/8 of a patch's values,"
            " as the paper's 96 of 768"
        )
    )

    def complete(self, values_of_patch: int) -> None:
        """Choose the paper's 96 of 16 * 16 * 3 = 768 where the key is null."""
        if self.components is None:
            self.components = max(1, values_of_patch // 8)

    def misfits(self, patch_size: int, channels: int) -> Iterator[str]:
        # a patch has as many principal components as it has values
        values = patch_size**2 * channels
        if self.components and self.components > values:
            yield (
                f"target.components = {self.components}: a patch of {patch_size} x"
                f" {patch_size} pixels and {channels} channels has {values} components;"
                f" the paper takes an eighth of them:"
                f" target.components={max(1, values // 8)}"
            )


class HogTarget(Part, Section):
    target_: Literal["unmask.targets.Hog"] = Field(
        alias="_target_", description=TARGET_MEANING
    )
    bins: Annotated[int, Field(ge=2, le=64)] = Field(
        description="orientation bins of a histogram of oriented gradients (HOG)"
    )


# its tokens come from the section `tokenizer`
class TokensTarget(Part, Section):
    takes_tokenizer: ClassVar[bool] = True

    target_: Literal["unmask.targets.Tokens"] = Field(
        alias="_target_", description=TARGET_MEANING
    )


OwnTarget = Annotated[
    PixelTarget | PCATarget | HogTarget | TokensTarget, Field(discriminator="target_")
]
Target = Annotated[
    Annotated[OwnTarget, Tag(OWN)] | Annotated[ForeignPart, Tag(FOREIGN)],
    Discriminator(choose_tag),
]


def check_wandb_name(value: str) -> str:
    """Return the name of a project, user or team; ValueError where W&B refuses it."""
    wrong = sorted({char for char in value if char in WANDB_REFUSES})
    if wrong or value != value.strip() or not 0 < len(value) <= MAX_WANDB_NAME:
        near = re.sub(rf"[{re.escape(WANDB_REFUSES)}\s]+", "-", value).strip("-")
        raise ValueError(
            f"{value!r}: W&B takes names of 1 to {MAX_WANDB_NAME} characters without"
            f" {' '.join(WANDB_REFUSES)} and without blanks at an end; such as"
            f" {near[:MAX_WANDB_NAME] or 'unmask'}"
        )
    return value


WandbName = Annotated[str, AfterValidator(check_wandb_name)]


class Wandb(Section):
    project: WandbName = Field(description="W&B project")
    entity: WandbName | None = Field(
        description="W&B user or team; null: the default of your W&B account"
    )
    mode: Literal["offline", "online"] = Field(
        description="offline needs no account and no network"
    )
    finish_seconds: Positive = Field(
        description="how long a stage waits at its end for W&B to take the last rows"
    )


class Tensorboard(Section):
    name: str = Field(
        description="where TensorBoard's files go: a folder inside the stage's folder"
    )


class Trackio(Section):
    project: Annotated[str, Field(min_length=1)] = Field(
        description="project of trackio's local dashboard"
    )


class Loggers(Section):
    # conf/logger/csv.yaml is empty
    csv: Annotated[dict[str, Any], Field(max_length=0)] | None = Field(
        default=None,
        description="has no options: metrics.csv is always written",
    )
    wandb: Wandb | None = None
    tensorboard: Tensorboard | None = None
    trackio: Trackio | None = None
