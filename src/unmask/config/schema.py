"""What a config may say: types, ranges and what must fit together, checked before torch is imported.

The YAML files in conf/ hold the values; defaults live there alone.
"""

from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)

from unmask.config.groups import Loggers, Masking, PCATarget, Target, TokensTarget
from unmask.config.recipes import (
    AttentiveProbe,
    Augment,
    Count,
    FineTune,
    Knn,
    Part,
    PartialFineTune,
    Positive,
    Probe,
    Proportion,
    Recipe,
    Robustness,
    Share,
    TokenizerRecipe,
    pair,
)
from unmask.config.statistics import taken_statistics

Width = Annotated[int, Field(ge=1, le=16_384)]
Depth = Annotated[int, Field(ge=1, le=256)]
DecoderDepth = Annotated[int, Field(ge=0, le=256)]
Stage = Literal[
    "patch_pca",
    "tokenizer",
    "pretrain",
    "knn",
    "linear_probe",
    "attentive_probe",
    "partial_finetune",
    "finetune",
    "scratch",
    "robustness",
]
Control = Literal["random", "pixels"]
Decode = Literal["auto", "fast", "scaled", "reference", "nvjpeg"]
Source = Literal[
    "mnist5k",
    "cifar10",
    "cifar100",
    "image_folder",
    "inat2017",
    "inat2018",
    "inat2019",
    "places205",
    "places365",
    "listed",
]
Container = Literal["folder", "webdataset", "parquet", "litdata", "raw"]
TRAINED = (
    "pretrain",
    "linear_probe",
    "attentive_probe",
    "partial_finetune",
    "finetune",
    "scratch",
)
FROZEN = ("linear_probe", "attentive_probe")  # of these a head alone is trained
# these train encoders
ENCODING = tuple(stage for stage in TRAINED if stage not in FROZEN)
STEPPED = (*TRAINED, "tokenizer")  # all that train by steps
UNLABELLED = ("patch_pca", "tokenizer", "pretrain")
LABELLED: tuple[str, ...] = tuple(
    stage for stage in get_args(Stage) if stage not in UNLABELLED
)
CHANNELS = {"mnist5k": 1, "cifar10": 3, "cifar100": 3}
MAX_PATCH, MIN_GRID = 16, 8  # what an automatic patch size respects


def listed(value: Any) -> Any:
    """One name stands for a list of it."""
    return [value] if isinstance(value, str) else value


class Model(Part):
    name: str = Field(description="what tables call it")
    width: Width = Field(description="channels of the encoder's tokens")
    depth: Depth = Field(description="transformer blocks of the encoder")
    heads: Width = Field(description="attention heads of the encoder")
    mlp_ratio: Positive = Field(
        description="hidden width of the MLP over the block's width"
    )
    patch_size_at_224: Count = Field(
        description="patch size on images of 224 pixels (14 for ViT-H, else 16)"
    )


class Encoder(Part):
    mask_tokens: bool = Field(
        description="the encoder sees mask tokens in place of hidden patches (Table 1c)"
    )


class Decoder(Part):
    depth: DecoderDepth = Field(
        description=(
            "transformer blocks of the decoder (Table 1a); 0: a linear head, with"
            " encoder.mask_tokens=true"
        )
    )
    width: Width = Field(description="channels of the decoder's tokens (Table 1b)")
    heads: Width = Field(description="attention heads of the decoder")


class Scale(Part):
    """A size at which the paper's experiments are made; `unmask.config.experiments` reads it."""

    name: str = Field(description="what tables and files call it")
    seeds: Annotated[
        list[Annotated[int, Field(ge=0, lt=2**63)]], Field(min_length=1)
    ] = Field(description="every cell of an experiment is made with each")
    cells: dict[str, dict[str, list[str] | None] | None] = Field(
        description=(
            "experiment: row: overrides, where the paper's values do not fit this size;"
            " null: left out"
        )
    )


class Data(Part):
    source: Source = Field(description="where images come from")
    root: str | None = Field(description="folder of the files; mnist5k needs none")
    download: bool = Field(description="let torchvision download what is missing")
    image_size: tuple[Count, Count] = Field(
        description="pixels the model sees: one number, or [height, width]"
    )
    patch_size: Count | None = Field(
        description="pixels of a patch's side; null chooses by image_size and model"
    )
    channels: Count = Field(
        description="1 grey, 3 RGB, 4 RGBA; others from .npy and TIFF files"
    )
    mean: list[float] | None = Field(
        description="per channel, of pixels in [0, 1]; null: see docs/images.md"
    )
    std: list[Positive] | None = Field(description="per channel")
    statistics: str | None = Field(
        description="a file of src/measure.py that has mean and std of these images"
    )
    flip: bool = Field(
        description=(
            "whether a mirrored image is still one of the same class (not so for"
            " digits)"
        )
    )
    eval_crop: Proportion = Field(
        description="side of the centre crop (0.875: 224 of 256)"
    )
    holdout: Annotated[float, Field(gt=0, le=0.5)] = Field(
        description="share of images held out where a folder has no val/ or test/"
    )
    in_memory: bool | Literal["device"] | None = Field(
        description=(
            "decode once into memory, or onto each training device; null decides by"
            " size and device"
        )
    )
    decode: Decode = Field(
        description=(
            "of files: fast (auto), scaled (large crops at 1/2 to 1/8), Pillow's alone,"
            " or on the training GPU"
        )
    )
    bad_limit: Annotated[float, Field(ge=0, le=1)] = Field(
        description=(
            "more unreadable files than this share of a split's images end the run"
            " (image_folder); 0: one does"
        )
    )
    num_workers: Annotated[int, Field(ge=0)] | None = Field(
        description="loader processes; null: by cores and threads"
    )
    threads: Count | None = Field(
        description="that decode in each loader process; null: up to 4, by cores"
    )

    # the identity of the images that mean and std were measured on
    _measured: str | None = PrivateAttr(default=None)

    @field_validator("image_size", mode="before")
    @classmethod
    def square(cls, value: Any) -> Any:
        return pair(value)

    @model_validator(mode="after")
    def complete(self) -> "Data":
        """Fill in statistics: ImageNet's for three channels, else 0.5 and 0.25."""
        if self.channels != CHANNELS.get(self.source, self.channels):
            raise ValueError(
                f"data.channels={self.channels}: {self.source} has"
                f" {CHANNELS[self.source]}"
            )
        taken = taken_statistics(self.statistics, self.mean, self.std, self.channels)
        self.mean, self.std, self._measured = (
            list(taken.mean),
            list(taken.std),
            taken.identity,
        )
        self.statistics = None  # which file they came from does not matter
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise ValueError(
                    f"data.{name} has {len(values)} values for"
                    f" data.channels={self.channels}"
                )
        if self.source in CHANNELS and self.in_memory is False:
            raise ValueError(
                f"data.in_memory=false: {self.source} is held in memory; take null,"
                " true or device"
            )
        if self.source not in CHANNELS and not self.root:
            raise ValueError(
                "data.root: missing; these images lie in a folder of yours: add"
                " data.root=/path/to/images"
            )
        return self

    @property
    def measured(self) -> str | None:
        return self._measured


class Trainer(Part):
    accelerator: Literal["auto", "cpu", "gpu"] = Field(
        description="which kind of device"
    )
    precision: Literal["32-true", "bf16-mixed"] = Field(
        description="targets and loss are float32 in any case"
    )
    micro_batch: Count | None = Field(
        description="images a device takes at once; null: its whole share of the batch"
    )
    devices: Count | None = Field(
        description=(
            "processes on each machine, one a device, that train one model; null: all"
            " GPUs"
        )
    )
    nodes: Count = Field(
        description="machines, each started by srun, submitit or torchrun"
    )
    sharded: bool = Field(
        description=(
            "each device holds a share of weights, gradients and moments (FSDP2);"
            " probes keep whole copies"
        )
    )
    split: Count = Field(
        description=(
            "cut each batch in so many times as many micro-batches; set to 2 by a run"
            " whose memory was full"
        )
    )
    timeout_minutes: Positive = Field(
        description=(
            "training in which nothing moves for so long is ended, with the stacks of"
            " all processes on file"
        )
    )
    max_minutes: Positive | None = Field(
        description=(
            "save and leave with exit code 75 after so long, as when asked to; null:"
            " train to the end"
        )
    )
    requeue: bool = Field(
        description=(
            "after saving on SIGUSR1 or SIGUSR2, put the SLURM job into the queue again"
            " (not on SIGTERM)"
        )
    )


class Checkpoint(Part):
    every_minutes: Positive | None = Field(
        description="save when this long has passed since the last one"
    )
    every_steps: Count | None = Field(
        description="save after this many optimiser steps"
    )
    keep: Annotated[int, Field(ge=1)] = Field(
        description="how many to keep while training"
    )
    best: bool = Field(
        description=(
            "also keep the weights that validated best; results are those of the last"
            " ones"
        )
    )


class Spikes(Part):
    factor: Annotated[float, Field(gt=1)] | None = Field(
        description=(
            "do not make a step whose loss is more than so many times the mean before"
            " it; null: make all"
        )
    )
    window: Count = Field(
        description=(
            "steps that the mean is taken over; the first so many are made in any case"
        )
    )
    limit: Annotated[int, Field(ge=0)] = Field(
        description="how many such steps a stage may leave out"
    )


class Watch(Part):
    times: Count = Field(
        description="how often a stage validates (and pretraining draws) on its way"
    )
    pictures: Count = Field(description="how many validation images are reconstructed")
    trace: bool = Field(
        description=(
            "write trace.jsonl: of each step the loss and hashes of samples, pixels and"
            " masks: docs/exact.md"
        )
    )


def chosen_patch_size(image_size: tuple[int, int], at_224: int) -> int:
    """At 224 px the model's own; else the largest divisor up to 16 px that leaves 8 x 8 patches or more."""
    if image_size == (224, 224):
        return at_224
    small = [
        p
        for p in range(1, MAX_PATCH + 1)
        if all(s % p == 0 and s // p >= MIN_GRID for s in image_size)
    ]
    return max(small, default=1)


class Config(Part):
    """The whole of it; `unmask.config.checks` adds what must fit together."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        description="order, crops, masks, init all follow from it"
    )
    mask_ratio: Share = Field(description="share of patches that is hidden (Fig. 5)")
    labels: Count | None = Field(
        description="few-label fine-tuning: train finetune and scratch on this many"
    )
    stages: Annotated[list[Stage], BeforeValidator(listed), Field(min_length=1)] = (
        Field(description="what to run, in order")
    )
    controls: list[Control] = Field(
        description="repeat each measurement on a random encoder and on raw pixels"
    )
    source: Container = Field(
        description=(
            "what the images of image_folder and imagenet lie in: docs/sources.md"
        )
    )
    init_from: str | None = Field(
        description=(
            "weights of others to start from: official MAE, Hugging Face, timm or ours;"
            " null: none"
        )
    )
    stop_after: Count | None = Field(
        description=(
            "make only the first so many steps of each stage, with the learning rates"
            " of the whole; null: all"
        )
    )
    runs_dir: Annotated[str, Field(min_length=1)] = Field(
        description="where the ledger is"
    )
    wait: bool = Field(
        description=(
            "when another process owns a stage: wait for its result, or fail at once"
        )
    )
    scale: Scale | None = Field(
        default=None, description="set by scale=embedded, cifar or paper"
    )
    loss_on: Literal["hidden", "all"] = Field(
        description="the patches whose error is the loss (footnote 1: all)"
    )
    model: Model
    encoder: Encoder
    decoder: Decoder
    masking: Masking
    target: Target
    augment: Augment
    data: Data
    tokenizer: TokenizerRecipe
    pretrain: Recipe
    knn: Knn
    linear_probe: Probe
    attentive_probe: AttentiveProbe
    partial_finetune: PartialFineTune
    finetune: FineTune
    scratch: FineTune
    robustness: Robustness
    trainer: Trainer
    checkpoint: Checkpoint
    spikes: Spikes
    watch: Watch
    logger: Loggers

    @model_validator(mode="after")
    def choose_patch_size(self) -> "Config":
        if self.data.patch_size is None:
            self.data.patch_size = chosen_patch_size(
                self.data.image_size, self.model.patch_size_at_224
            )
        return self

    @model_validator(mode="after")
    def choose_components(self) -> "Config":
        if isinstance(self.target, PCATarget) and self.target.components is None:
            assert self.data.patch_size is not None
            self.target.components = max(
                1, self.data.patch_size**2 * self.data.channels // 8
            )
        return self

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.grid_of(self.data.image_size)

    def grid_of(self, image_size: tuple[int, int]) -> tuple[int, int]:
        assert self.data.patch_size is not None
        return (
            image_size[0] // self.data.patch_size,
            image_size[1] // self.data.patch_size,
        )

    @property
    def worked_stages(self) -> list[str]:
        """The stages that are asked for, and the one whose classifier the robustness stage measures."""
        implied = [self.robustness.of] if "robustness" in self.stages else []
        return list(dict.fromkeys([*self.stages, *implied]))

    def stage_image_size(self, stage: str) -> tuple[int, int]:
        """Pixels (height, width) in that stage: its own, or the data's."""
        return (
            getattr(getattr(self, stage, None), "image_size", None)
            or self.data.image_size
        )

    @property
    def tokenizer_file(self) -> str | None:
        """DALL-E's encoder, where tokens are the target and it is given."""
        return self.tokenizer.file if isinstance(self.target, TokensTarget) else None

    @property
    def num_visible(self) -> int:
        """Patches the encoder sees; a grid's follow from its shape (`unmask.masking` has the definitions)."""
        rows, cols = self.grid
        if self.masking.target_.endswith("GridMasking"):
            return -(-rows // 2) * -(-cols // 2)
        return round(rows * cols * (1 - self.mask_ratio))

    def plain(self) -> dict[str, Any]:
        """Plain containers, as stored beside results and in checkpoints."""
        return self.model_dump(by_alias=True, mode="json")
