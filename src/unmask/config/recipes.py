"""What the config says of each stage: optimiser and schedule, the images as training sees them, the measurement."""

import re
from math import lcm
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

Share = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Proportion = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Pool = Literal["cls", "mean"]
Corruption = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
]
Labels = Annotated[
    Count | None,
    Field(description="train on this many labels, classes equally often; null: all"),
]
ImageSize = Annotated[
    tuple[Count, Count] | None,
    BeforeValidator(lambda value: pair(value)),
    Field(
        description=(
            "pixels in this stage, positions are interpolated; null: data.image_size"
        )
    ),
]
POLICY_WORD = re.compile(r"(m|n|inc|mmax)\d+|(p|mstd)\d+(\.\d+)?")
WARMUP = 0.05  # of the epochs: Table 8 warms up for 40 of 800
MOST_MIXED = 16  # images


class Part(BaseModel):
    """A section of the config; keys that are not listed are faults."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)


def pair(value: Any) -> Any:
    """One number stands for a square."""
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    return (value, value) if isinstance(value, int) else value


def mixed_together(batch_size: int) -> int:
    """Images that mixup and cutmix mix with each other: even, at most 16, and a divisor of an even batch.

    The same whatever the micro-batches and processes are that share the batch: the port mixes within a GPU's part.
    """
    return next(size for size in range(MOST_MIXED, 0, -2) if batch_size % size == 0)


def kept_together(recipe: Any, batch_size: int, repeats: int) -> int:
    """Images of that batch that no micro-batch and no process may part: those that are mixed, and views of one."""
    mixed = (
        mixed_together(batch_size)
        if getattr(recipe, "mixup", 0) or getattr(recipe, "cutmix", 0)
        else 1
    )
    return lcm(mixed, repeats)


class Augment(Part):
    crop: Literal["none", "fixed", "random", "random_once", "padded"] = Field(
        description=(
            "none; one size anywhere; a random size, ten tries (Table 1e) or one, as"
            " the official probe has it; the image moved by up to an eighth of a side"
            " over black (CIFAR's)"
        )
    )
    scale: tuple[Proportion, Proportion] = Field(
        description="area of a random crop, shares"
    )
    flip: bool = Field(description="mirror half of the training images")
    policy: str | None = Field(
        description=(
            "RandAugment in timm's words (rand-m9-mstd0.5-inc1), 1 or 3 channels"
        )
    )
    erasing: Rate = Field(
        description=(
            "share of images in which a random box is erased (timm's, pixel noise)"
        )
    )
    jitter: Rate = Field(
        description=(
            "strength of brightness, contrast and saturation jitter (Table 1e); 0: none"
        )
    )
    repeats: Count = Field(
        description=(
            "views of each image in a batch, for one decoding (repeated augmentation)"
        )
    )

    @property
    def changes(self) -> bool:
        """Whether an image looks different in each epoch."""
        return self.crop != "none" or self.flip or self.erasing > 0 or self.by_image

    @property
    def by_image(self) -> bool:
        """Whether images are changed one at a time, on the CPU."""
        return self.policy is not None or self.jitter > 0

    @field_validator("policy")
    @classmethod
    def known(cls, value: str | None) -> str | None:
        words = (value or "rand").split("-")
        # timm asserts on these deep inside the first batch
        if words[0] != "rand" or not all(
            POLICY_WORD.fullmatch(word) for word in words[1:]
        ):
            raise ValueError(
                f"augment.policy={value}: write RandAugment as timm does, such as"
                " rand-m9-mstd0.5-inc1"
            )
        return value


class Recipe(Part):
    """How a stage is optimised (Tables 8 to 11)."""

    optimizer: Literal["adamw", "lars"] = Field(
        description="AdamW, or LARS with trust ratios for matrices"
    )
    epochs: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        description="passes over the stage's training images"
    )
    batch_size: Count = Field(
        description=(
            "images of an optimiser step, on all devices and micro-batches together"
        )
    )
    base_lr: Positive = Field(
        description=(
            "learning rate per 256 images; the rate is base_lr * batch_size / 256"
        )
    )
    min_lr: NonNegative = Field(
        description="the rate at which the cosine ends, not scaled by the batch"
    )
    warmup_epochs: NonNegative | None = Field(
        description="linear warm-up from 0, by step; null: 5 % of epochs"
    )
    weight_decay: NonNegative = Field(description="not for biases and 1-D parameters")
    betas: tuple[Share, Share] = Field(
        description="Adam's betas; LARS takes the first as momentum"
    )

    @model_validator(mode="after")
    def schedule_fits(self) -> "Recipe":
        if self.warmup_epochs is None:
            self.warmup_epochs = self.epochs * WARMUP
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs={self.warmup_epochs:g} must be less than"
                f" epochs={self.epochs}; try warmup_epochs={self.epochs / 10:g}"
            )
        peak = self.base_lr * self.batch_size / 256
        if self.min_lr > peak:
            raise ValueError(
                f"min_lr={self.min_lr:g} is above the peak rate {peak:g} (base_lr *"
                " batch_size / 256)"
            )
        return self


class TokenizerRecipe(Recipe):
    """Where the tokens of target=dvae come from: DALL-E's encoder in a file, or a small dVAE trained on the data.

    It stands at the root, beside the targets, so that one value serves the rows of a table that have other targets.
    """

    file: Annotated[str, Field(min_length=1)] | None = Field(
        description=(
            "the encoder of DALL-E's dVAE; null: a small dVAE of our own, trained on"
            " the data (stage tokenizer)"
        )
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        description="its own: runs of other seeds share the tokenizer"
    )
    codes: Annotated[int, Field(ge=2, le=65_536)] = Field(
        description="size of the codebook (DALL-E's: 8192)"
    )
    width: Count = Field(description="channels of its convolutions")
    usage_weight: NonNegative = Field(
        description="weight of the loss that asks for all codes to be used alike"
    )


class Probe(Recipe):
    """A linear head on frozen features."""

    pool: Pool = Field(
        description="the feature: class token, or mean of the patch tokens"
    )
    augment: Augment = Field(description="the training images")
    labels: Labels
    image_size: ImageSize


class AttentiveProbe(Recipe):
    """A learned query attends to all frozen patch tokens, then a linear head."""

    heads: Count = Field(description="heads of the pooling attention")
    augment: Augment = Field(description="the training images")
    labels: Labels
    image_size: ImageSize


class FineTune(Recipe):
    """The encoder is trained as well (Tables 9 and 11)."""

    pool: Pool = Field(
        description=(
            "the feature: class token, or mean of the patch tokens and a norm of"
            " its own"
        )
    )
    augment: Augment = Field(description="the training images")
    labels: Labels
    image_size: ImageSize
    layer_decay: Proportion = Field(
        description="rate of each block over that of the one after it; 1: none"
    )
    drop_path: Rate = Field(
        description="stochastic depth of the last block, linear from 0 at the first"
    )
    smoothing: Rate = Field(description="label smoothing")
    mixup: NonNegative = Field(description="alpha of mixup; 0: none")
    cutmix: NonNegative = Field(
        description="alpha of cutmix; 0: none; with mixup, each half of the time"
    )
    ema: Share | None = Field(
        description="decay of the averaged weights that are measured; null: no average"
    )

    @model_validator(mode="after")
    def pairs(self) -> "FineTune":
        if (self.mixup or self.cutmix) and self.batch_size % 2:
            raise ValueError(
                f"batch_size={self.batch_size}: mixup and cutmix mix pairs of images;"
                " take an even batch"
            )
        if self.optimizer == "lars" and self.layer_decay < 1:
            raise ValueError(
                f"layer_decay={self.layer_decay:g}: LARS sets a rate for each matrix"
                " itself; use adamw"
            )
        return self


class PartialFineTune(FineTune):
    blocks: Annotated[float, Field(ge=0)] = Field(
        description=(
            "how many last blocks are trained (Fig. 9); 0: what follows them, 0.5: and"
            " the last block's MLP"
        )
    )


class Robustness(Part):
    """What a trained classifier is measured on, beside its own validation images (Table 13)."""

    of: Literal["finetune", "partial_finetune", "scratch"] = Field(
        description="the stage whose classifier it is"
    )
    source: Literal["corrupted", "corrupted_folders", "folder"] = Field(
        description=(
            "own images corrupted on the fly; root/<corruption>/<severity>/<class>/"
            " (ImageNet-C); root/<class>/"
        )
    )
    root: str | None = Field(description="where those folders are")
    corruptions: list[Corruption] | None = Field(
        description="which of the 15 of ImageNet-C; null: all"
    )
    severities: Annotated[
        list[Annotated[int, Field(ge=1, le=5)]], Field(min_length=1)
    ] = Field(description="1 to 5")
    images: Count | None = Field(description="so many, spread over the set; null: all")

    @model_validator(mode="after")
    def root_given(self) -> "Robustness":
        if self.source != "corrupted" and not self.root:
            raise ValueError(
                f"robustness.root: robustness.source={self.source} needs the folder of"
                " those images"
            )
        return self


class Knn(Part):
    k: Count = Field(description="neighbours that vote")
    temperature: Positive = Field(description="votes weigh exp(cosine / temperature)")
    pool: Pool = Field(
        description="the feature: class token, or mean of the patch tokens"
    )
    labels: Count | None = Field(
        description="size of the labelled bank; null: all training images"
    )


def augment_of(config: Any, stage: str) -> Augment | None:
    """How a stage's training images are changed; None: not at all."""
    return (
        config.augment
        if stage == "pretrain"
        else getattr(getattr(config, stage, None), "augment", None)
    )


def repeats_of(config: Any, stage: str) -> int:
    """Views of each image in a batch of that stage."""
    augment = augment_of(config, stage)
    return augment.repeats if augment else 1
