"""The parts of a run that are swapped as a whole: masking, target, loggers."""

import re
from typing import Annotated, Any, Literal

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

MASKING_MEANING = "set by masking=random, block or grid"
TARGET_MEANING = "set by target=pixel, pixel_norm, pca, dvae or hog"
# by wandb's Settings.validate_project
WANDB_REFUSES = "/\\#?%:"
MAX_WANDB_NAME = 128
# of tags: messages leave parts of a key out that hold the project's name
OWN, FOREIGN = "unmask.own", "unmask.foreign"


class ForeignPart(Section):
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


def choose_tag(value: Any) -> str:
    """Tell whether the part that `_target_` names is this project's."""
    typed = (
        value.get("_target_", value.get("target_"))
        if isinstance(value, dict)
        else (getattr(value, "target_", None))
    )
    return FOREIGN if isinstance(typed, str) and is_foreign(typed) else OWN


class PlainMasking(Section):
    """Masking without options of its own."""

    target_: Literal["unmask.masking.RandomMasking", "unmask.masking.GridMasking"] = (
        Field(alias="_target_", description=MASKING_MEANING)
    )


class BlockMasking(Section):
    target_: Literal["unmask.masking.BlockMasking"] = Field(
        alias="_target_", description=MASKING_MEANING
    )
    min_patches: Count | None = Field(
        description=(
            "number of patches in the smallest block; null: BEiT's 16 of 196, scaled"
            " to the grid"
        )
    )


# `_target_` says which of the classes a section is checked against
OwnMasking = Annotated[PlainMasking | BlockMasking, Field(discriminator="target_")]
Masking = Annotated[
    Annotated[OwnMasking, Tag(OWN)] | Annotated[ForeignPart, Tag(FOREIGN)],
    Discriminator(choose_tag),
]


# the target of the default config, with or without normalisation per patch
class PixelTarget(Section):
    target_: Literal["unmask.targets.Pixel", "unmask.targets.NormalisedPixel"] = Field(
        alias="_target_", description=TARGET_MEANING
    )


class PCATarget(Section):
    target_: Literal["unmask.targets.PatchPCA"] = Field(
        alias="_target_", description=TARGET_MEANING
    )
    components: Count | None = Field(
        description=(
            "number of principal components to predict; null: 1/8 of a patch's values,"
            " as the paper's 96 of 768"
        )
    )


class HogTarget(Section):
    target_: Literal["unmask.targets.Hog"] = Field(
        alias="_target_", description=TARGET_MEANING
    )
    bins: Annotated[int, Field(ge=2, le=64)] = Field(
        description="orientation bins of a histogram of oriented gradients (HOG)"
    )


# its tokens come from the section `tokenizer`
class TokensTarget(Section):
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
