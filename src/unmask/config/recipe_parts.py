"""The parts of recipes: keys that several sections of the config share."""

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
    def check_schedule(self) -> Self:
        """Fill in the warm-up; ValueError where warm-up or rates do not fit."""
        if self.warmup_epochs is None:
            self.warmup_epochs = self.epochs * WARMUP_SHARE
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs={self.warmup_epochs:g} must be less than"
                f" epochs={self.epochs}; try warmup_epochs={self.epochs / 10:g}"
            )
        # a schedule that ends above its peak is a typo in one of the two
        peak = self.base_lr * self.batch_size / 256
        if self.min_lr > peak:
            raise ValueError(
                f"min_lr={self.min_lr:g} is above the peak rate {peak:g} (base_lr *"
                f" batch_size / 256); set min_lr to {peak:g} or less"
            )
        return self


class LabelledImages(BaseModel):
    """The images that a classifier is trained on."""

    augment: Augment = Field(description="the training images")
    labels: Count | None = Field(
        description=(
            "train on this many labelled images, spread evenly over the classes; null:"
            " on all"
        )
    )
    image_size: Annotated[
        tuple[Count, Count] | None, BeforeValidator(height_and_width)
    ] = Field(
        description=(
            "image size of this stage in pixels, one number or [height, width];"
            " position embeddings are interpolated; null: data.image_size"
        )
    )


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

    @model_validator(mode="after")
    def check_mixing_and_decay(self) -> Self:
        """Raise ValueError where mixing or layer decay fit no batch or optimiser."""
        recipe: Any = self
        if (self.mixup or self.cutmix) and recipe.batch_size % 2:
            raise ValueError(
                f"batch_size={recipe.batch_size}: mixup and cutmix mix pairs of images;"
                f" use an even batch, such as batch_size={recipe.batch_size + 1}"
            )
        if recipe.optimizer == "lars" and self.layer_decay < 1:
            raise ValueError(
                f"layer_decay={self.layer_decay:g}: LARS sets the rate of each weight"
                " matrix itself; use optimizer=adamw or layer_decay=1"
            )
        return self
