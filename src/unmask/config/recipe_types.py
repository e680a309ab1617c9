"""The types of a recipe's values: their ranges, and what they mean to the user.

Several sections of the config share each of them.
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

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
Labels = Annotated[
    Count | None,
    Field(
        description=(
            "train on this many labelled images, spread evenly over the classes; null:"
            " on all"
        )
    ),
]
ImageSize = Annotated[
    tuple[Count, Count] | None,
    BeforeValidator(height_and_width),
    Field(
        description=(
            "image size of this stage in pixels, one number or [height, width];"
            " position embeddings are interpolated; null: data.image_size"
        )
    ),
]
Optimizer = Annotated[
    Literal["adamw", "lars"],
    Field(description="adamw, or lars with a trust ratio for each weight matrix"),
]
Epochs = Annotated[
    int,
    Field(
        ge=1,
        le=1_000_000,
        description="passes over the training images of the stage",
    ),
]
BatchSize = Annotated[
    Count,
    Field(
        description=(
            "images of one optimiser step, over all devices and micro-batches together"
        )
    ),
]
# the linear scaling rule of Goyal et al. 2017 (Sec. A.1)
BaseLr = Annotated[
    Positive,
    Field(
        description=(
            "learning rate for a batch of 256 images; the peak rate is base_lr *"
            " batch_size / 256"
        )
    ),
]
MinLr = Annotated[
    NonNegative,
    Field(
        description=(
            "learning rate at the end of the cosine schedule; not scaled by the batch"
            " size"
        )
    ),
]
WarmupEpochs = Annotated[
    NonNegative | None,
    Field(
        description=(
            "epochs in which the learning rate rises linearly from 0, step by step;"
            " null: 5 % of all epochs"
        )
    ),
]
WeightDecay = Annotated[
    NonNegative,
    Field(description="weight decay; biases and other 1-D parameters have none"),
]
Betas = Annotated[
    tuple[OpenFraction, OpenFraction],
    Field(description="[beta1, beta2] of AdamW; LARS takes beta1 as its momentum"),
]
TrainingImages = Annotated[Augment, Field(description="the training images")]
FrozenPooling = Annotated[
    Pooling,
    Field(
        description=(
            "the feature of an image: the class token (cls), or the mean of the patch"
            " tokens (mean)"
        )
    ),
]
TrainedPooling = Annotated[
    Pooling,
    Field(
        description=(
            "the feature of an image: the class token (cls), or the mean of the patch"
            " tokens followed by a LayerNorm (mean)"
        )
    ),
]
# Clark et al. 2020, as in BEiT; 0.75 for ViT-L (Table 9)
LayerDecay = Annotated[
    PositiveFraction,
    Field(
        description=(
            "layer-wise decay: a block's learning rate is this times the rate of the"
            " block after it; 1: the same rate for all"
        )
    ),
]
DropPath = Annotated[
    FractionBelowOne,
    Field(
        description=(
            "stochastic depth: drop rate of the last block; it grows linearly from 0 at"
            " the first block"
        )
    ),
]
Smoothing = Annotated[FractionBelowOne, Field(description="label smoothing; 0: none")]
# the share of each image in a mix is drawn from Beta(alpha, alpha)
Mixup = Annotated[NonNegative, Field(description="alpha of mixup; 0: no mixup")]
Cutmix = Annotated[
    NonNegative,
    Field(
        description=(
            "alpha of cutmix; 0: no cutmix; with mixup as well, each is used half of"
            " the time"
        )
    ),
]
# Table 11 (training from scratch) has one, Table 9 (fine-tuning) has none
EmaDecay = Annotated[
    OpenFraction | None,
    Field(
        description=(
            "decay of an exponential moving average of the weights, which is then what"
            " gets evaluated; null: no average"
        )
    ),
]
