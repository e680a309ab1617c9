"""The parts of recipes: keys that several sections of the config share."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from unmask.config.augmentation import Augment
from unmask.config.section import (
    Count,
    FractionBelowOne,
    NonNegative,
    OpenFraction,
    Positive,
    PositiveFraction,
    height_and_width,
)

Pooling = Literal["cls", "mean"]
FrozenPooling = Literal["cls", "mean", "mean_norm"]
# the share of all epochs: Table 8 warms up for 40 of 800
WARMUP_SHARE = 0.05


class Schedule(BaseModel):
    """How a stage is optimised, and for how long."""

    optimizer: Literal["adamw", "lars"] = Field(
        description="adamw, or lars with a trust ratio for each weight matrix"
    )
    epochs: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        description="passes over the training images of the stage"
    )
    batch_size: Count = Field(
        description=(
            "images of one optimiser step, over all devices and micro-batches together"
        )
    )
    # the linear scaling rule of Goyal et al. 2017 (Sec. A.1)
    base_lr: Positive = Field(
        description=(
            "learning rate for a batch of 256 images; the peak rate is base_lr *"
            " batch_size / 256"
        )
    )
    min_lr: NonNegative = Field(
        description=(
            "learning rate at the end of the cosine schedule; not scaled by the batch"
            " size"
        )
    )
    warmup_epochs: NonNegative | None = Field(
        description=(
            "epochs in which the learning rate rises linearly from 0, step by step;"
            " null: 5 % of all epochs"
        )
    )
    weight_decay: NonNegative = Field(
        description="weight decay; biases and other 1-D parameters have none"
    )
    betas: tuple[OpenFraction, OpenFraction] = Field(
        description="[beta1, beta2] of AdamW; LARS takes beta1 as its momentum"
    )

    @model_validator(mode="after")
    def fill_warmup(self) -> Self:
        if self.warmup_epochs is None:
            self.warmup_epochs = self.epochs * WARMUP_SHARE
        return self


LABELS: Any = Field(
    description=(
        "train on this many labelled images, spread evenly over the classes; null: on"
        " all"
    )
)
ImageSize = Annotated[tuple[Count, Count] | None, BeforeValidator(height_and_width)]
IMAGE_SIZE: Any = Field(
    description=(
        "image size of this stage in pixels, one number or [height, width]; position"
        " embeddings are interpolated; null: data.image_size"
    )
)


class LabelledImages(BaseModel):
    """The images that a classifier is trained on."""

    augment: Augment = Field(description="the training images")
    labels: Count | None = LABELS
    image_size: ImageSize = IMAGE_SIZE


class FineTuning(BaseModel):
    """What fine-tuning has beside a schedule and images (Tables 9 and 11)."""

    pool: Pooling = Field(
        description=(
            "the feature of an image: the class token (cls), or the mean of the patch"
            " tokens followed by a LayerNorm (mean)"
        )
    )
    # Clark et al. 2020, as in BEiT; 0.75 for ViT-L (Table 9)
    layer_decay: PositiveFraction = Field(
        description=(
            "layer-wise decay: a block's learning rate is this times the rate of the"
            " block after it; 1: the same rate for all"
        )
    )
    drop_path: FractionBelowOne = Field(
        description=(
            "stochastic depth: drop rate of the last block; it grows linearly from 0 at"
            " the first block"
        )
    )
    smoothing: FractionBelowOne = Field(description="label smoothing; 0: none")
    # the share of each image in a mix is drawn from Beta(alpha, alpha)
    mixup: NonNegative = Field(description="alpha of mixup; 0: no mixup")
    cutmix: NonNegative = Field(
        description=(
            "alpha of cutmix; 0: no cutmix; with mixup as well, each is used half of"
            " the time"
        )
    )
    # Table 11 (training from scratch) has one, Table 9 (fine-tuning) has none
    ema: OpenFraction | None = Field(
        description=(
            "decay of an exponential moving average of the weights, which is then what"
            " gets evaluated; null: no average"
        )
    )


def check_recipe(recipe: Any) -> Iterator[str]:
    """Yield an error message for values of a stage's recipe that do not fit together.

    Not a validator: a recipe that no stage of the run uses may be anything.
    """
    if isinstance(recipe, Schedule):
        yield from _check_schedule(recipe)
    if not isinstance(recipe, FineTuning):
        return
    tuned: Any = recipe
    if (tuned.mixup or tuned.cutmix) and tuned.batch_size % 2:
        yield (
            f"batch_size={tuned.batch_size}: mixup and cutmix mix pairs of images;"
            f" use an even batch, such as batch_size={tuned.batch_size + 1}"
        )
    if tuned.optimizer == "lars" and tuned.layer_decay < 1:
        yield (
            f"layer_decay={tuned.layer_decay:g}: LARS sets the rate of each weight"
            " matrix itself; use optimizer=adamw or layer_decay=1"
        )


def _check_schedule(recipe: Schedule) -> Iterator[str]:
    """Yield an error message where warm-up or rates do not fit."""
    warmup = recipe.warmup_epochs or 0.0
    if warmup >= recipe.epochs:
        yield (
            f"warmup_epochs={warmup:g} must be less than epochs={recipe.epochs}; try"
            f" warmup_epochs={recipe.epochs / 10:g}"
        )
    # a schedule that ends above its peak is a typo in one of the two
    peak = recipe.base_lr * recipe.batch_size / 256
    if recipe.min_lr > peak:
        yield (
            f"min_lr={recipe.min_lr:g} is above the peak rate {peak:g} (base_lr *"
            f" batch_size / 256); set min_lr to {peak:g} or less"
        )
