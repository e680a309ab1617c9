"""How each stage trains or measures: optimiser, schedule, augmentation, labels."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from unmask.config.recipe_types import (
    BaseLr,
    BatchSize,
    Betas,
    Cutmix,
    DropPath,
    EmaDecay,
    Epochs,
    FrozenPooling,
    ImageSize,
    Labels,
    LayerDecay,
    MinLr,
    Mixup,
    Optimizer,
    Pooling,
    Smoothing,
    TrainedPooling,
    TrainingImages,
    WarmupEpochs,
    WeightDecay,
)
from unmask.config.section import Count, NonNegative, Positive, Section, Seed

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
# the share of all epochs: Table 8 warms up for 40 of 800
WARMUP_SHARE = 0.05


def check_schedule(recipe: Any) -> Any:
    """Fill in the warm-up; ValueError where warm-up or rates do not fit."""
    if recipe.warmup_epochs is None:
        recipe.warmup_epochs = recipe.epochs * WARMUP_SHARE
    if recipe.warmup_epochs >= recipe.epochs:
        raise ValueError(
            f"warmup_epochs={recipe.warmup_epochs:g} must be less than"
            f" epochs={recipe.epochs}; try warmup_epochs={recipe.epochs / 10:g}"
        )
    # a schedule that ends above its peak is a typo in one of the two
    peak = recipe.base_lr * recipe.batch_size / 256
    if recipe.min_lr > peak:
        raise ValueError(
            f"min_lr={recipe.min_lr:g} is above the peak rate {peak:g} (base_lr *"
            f" batch_size / 256); set min_lr to {peak:g} or less"
        )
    return recipe


def check_mixing_and_decay(recipe: Any) -> Any:
    """Raise ValueError where mixing or layer decay do not fit batch or optimiser."""
    if (recipe.mixup or recipe.cutmix) and recipe.batch_size % 2:
        raise ValueError(
            f"batch_size={recipe.batch_size}: mixup and cutmix mix pairs of images; use"
            f" an even batch, such as batch_size={recipe.batch_size + 1}"
        )
    if recipe.optimizer == "lars" and recipe.layer_decay < 1:
        raise ValueError(
            f"layer_decay={recipe.layer_decay:g}: LARS sets the rate of each weight"
            " matrix itself; use optimizer=adamw or layer_decay=1"
        )
    return recipe


class Recipe(Section):
    """How pretraining is optimised (Table 8)."""

    optimizer: Optimizer
    epochs: Epochs
    batch_size: BatchSize
    base_lr: BaseLr
    min_lr: MinLr
    warmup_epochs: WarmupEpochs
    weight_decay: WeightDecay
    betas: Betas

    check_schedule = model_validator(mode="after")(check_schedule)


class TokenizerRecipe(Section):
    """Where the tokens of target=dvae come from, and how a small dVAE is trained.

    This section stands at the root and not below target: a table's rows with other
    targets then accept its keys too.
    """

    optimizer: Optimizer
    epochs: Epochs
    batch_size: BatchSize
    base_lr: BaseLr
    min_lr: MinLr
    warmup_epochs: WarmupEpochs
    weight_decay: WeightDecay
    betas: Betas
    file: Annotated[str, Field(min_length=1)] | None = Field(
        description=(
            "file with the encoder of DALL-E's dVAE; null: train a small dVAE on the"
            " data (stage tokenizer)"
        )
    )
    seed: Seed = Field(
        description=(
            "seed of the dVAE's training; apart from `seed`, so that runs with other"
            " seeds share one tokenizer"
        )
    )
    codes: Annotated[int, Field(ge=2, le=65_536)] = Field(
        description="number of codes in the codebook (DALL-E: 8192)"
    )
    width: Count = Field(description="channels of the dVAE's convolutions")
    usage_weight: NonNegative = Field(
        description=(
            "weight of the loss term that pushes all codes to be used equally often"
        )
    )

    check_schedule = model_validator(mode="after")(check_schedule)


class Probe(Section):
    """A linear head on frozen features (Table 10)."""

    optimizer: Optimizer
    epochs: Epochs
    batch_size: BatchSize
    base_lr: BaseLr
    min_lr: MinLr
    warmup_epochs: WarmupEpochs
    weight_decay: WeightDecay
    betas: Betas
    pool: FrozenPooling
    augment: TrainingImages
    labels: Labels
    image_size: ImageSize

    check_schedule = model_validator(mode="after")(check_schedule)


class AttentiveProbe(Section):
    """A learned query attends to all frozen patch tokens, then a linear head."""

    optimizer: Optimizer
    epochs: Epochs
    batch_size: BatchSize
    base_lr: BaseLr
    min_lr: MinLr
    warmup_epochs: WarmupEpochs
    weight_decay: WeightDecay
    betas: Betas
    heads: Count = Field(description="attention heads of the pooling layer")
    augment: TrainingImages
    labels: Labels
    image_size: ImageSize

    check_schedule = model_validator(mode="after")(check_schedule)


class FineTune(Section):
    """The encoder is trained as well (Tables 9 and 11)."""

    optimizer: Optimizer
    epochs: Epochs
    batch_size: BatchSize
    base_lr: BaseLr
    min_lr: MinLr
    warmup_epochs: WarmupEpochs
    weight_decay: WeightDecay
    betas: Betas
    pool: TrainedPooling
    augment: TrainingImages
    labels: Labels
    image_size: ImageSize
    layer_decay: LayerDecay
    drop_path: DropPath
    smoothing: Smoothing
    mixup: Mixup
    cutmix: Cutmix
    ema: EmaDecay

    check_schedule = model_validator(mode="after")(check_schedule)
    check_mixing_and_decay = model_validator(mode="after")(check_mixing_and_decay)


class PartialFineTune(Section):
    """Only the last blocks of the encoder are trained (Fig. 9)."""

    optimizer: Optimizer
    epochs: Epochs
    batch_size: BatchSize
    base_lr: BaseLr
    min_lr: MinLr
    warmup_epochs: WarmupEpochs
    weight_decay: WeightDecay
    betas: Betas
    pool: TrainedPooling
    augment: TrainingImages
    labels: Labels
    image_size: ImageSize
    layer_decay: LayerDecay
    drop_path: DropPath
    smoothing: Smoothing
    mixup: Mixup
    cutmix: Cutmix
    ema: EmaDecay
    # a number with a half: Fig. 9 has a point for the MLP of the last block
    blocks: Annotated[float, Field(ge=0)] = Field(
        description=(
            "how many of the last blocks are trained (Fig. 9); 0: only what follows the"
            " blocks; 0.5: also the MLP of the last block"
        )
    )

    check_schedule = model_validator(mode="after")(check_schedule)
    check_mixing_and_decay = model_validator(mode="after")(check_mixing_and_decay)


class Robustness(Section):
    """What a classifier is tested on beside its validation images (Table 13)."""

    of: Literal["finetune", "partial_finetune", "scratch"] = Field(
        description="the stage that trains the classifier to test"
    )
    source: Literal["corrupted", "corrupted_folders", "folder"] = Field(
        description=(
            "`corrupted`: corrupt the data set's validation images on the fly;"
            " `corrupted_folders`: read root/<corruption>/<severity>/<class>/"
            " (ImageNet-C); `folder`: read root/<class>/"
        )
    )
    root: str | None = Field(
        description="where the folders lie; not used with source=corrupted"
    )
    corruptions: list[Corruption] | None = Field(
        description="which of ImageNet-C's 15 corruptions; null: all"
    )
    severities: Annotated[
        list[Annotated[int, Field(ge=1, le=5)]], Field(min_length=1)
    ] = Field(description="severities of the corruptions, from 1 (weak) to 5 (strong)")
    images: Count | None = Field(
        description="test this many images, spread evenly over the set; null: all"
    )

    @model_validator(mode="after")
    def check_root(self) -> "Robustness":
        if self.source != "corrupted" and not self.root:
            raise ValueError(
                f"robustness.root: robustness.source={self.source} needs the folder of"
                " those images; add robustness.root=/path/to/images"
            )
        return self


class Knn(Section):
    k: Count = Field(description="number of nearest neighbours that vote")
    # Wu et al. 2018
    temperature: Positive = Field(
        description="the weight of a vote is exp(cosine similarity / temperature)"
    )
    pool: Pooling = Field(
        description=(
            "the feature of an image: the class token (cls), or the mean of the patch"
            " tokens (mean)"
        )
    )
    labels: Count | None = Field(
        description="number of labelled images in the kNN bank; null: all"
    )
