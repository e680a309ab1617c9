"""The parts that are swapped whole: how patches are hidden, what is predicted (groups masking and target)."""

from typing import Annotated, Any, Literal

from pydantic import Field

from unmask.config.recipes import Count, Part, Positive

MASKINGS, TARGETS = (
    "chosen by masking=random, block or grid",
    "chosen by target=pixel, pixel_norm, pca, dvae or hog",
)


class PlainMasking(Part):
    target_: Literal["unmask.masking.RandomMasking", "unmask.masking.GridMasking"] = (
        Field(alias="_target_", description=MASKINGS)
    )


class BlockMasking(Part):
    target_: Literal["unmask.masking.BlockMasking"] = Field(
        alias="_target_", description=MASKINGS
    )
    min_patches: Count | None = Field(
        description="smallest block; null scales BEiT's 16 of 196 to the grid"
    )


Masking = Annotated[PlainMasking | BlockMasking, Field(discriminator="target_")]


class PixelTarget(Part):
    target_: Literal["unmask.targets.Pixel", "unmask.targets.NormalisedPixel"] = Field(
        alias="_target_", description=TARGETS
    )


class PCATarget(Part):
    target_: Literal["unmask.targets.PatchPCA"] = Field(
        alias="_target_", description=TARGETS
    )
    components: Count | None = Field(
        description="largest coefficients; null: an eighth, as the paper's 96 of 768"
    )


class HogTarget(Part):
    target_: Literal["unmask.targets.Hog"] = Field(
        alias="_target_", description=TARGETS
    )
    bins: Annotated[int, Field(ge=2, le=64)] = Field(
        description="orientations of a histogram of gradients"
    )


class TokensTarget(Part):
    target_: Literal["unmask.targets.Tokens"] = Field(
        alias="_target_", description=TARGETS
    )


Target = Annotated[
    PixelTarget | PCATarget | HogTarget | TokensTarget, Field(discriminator="target_")
]


class Wandb(Part):
    project: str = Field(description="W&B project")
    entity: str | None = Field(description="W&B user or team; null: the account's own")
    mode: Literal["offline", "online"] = Field(
        description="offline needs no account and no network"
    )
    finish_seconds: Positive = Field(
        description="how long the end of a stage waits for W&B to take the last rows"
    )


class Tensorboard(Part):
    name: str = Field(description="sub-folder of the stage's folder")


class Loggers(Part):
    csv: dict[str, Any] | None = Field(
        default=None, description="metrics.csv is always written"
    )
    wandb: Wandb | None = None
    tensorboard: Tensorboard | None = None
