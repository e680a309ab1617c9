"""What a config may hold: its keys, types and ranges, checked before torch is imported.

The YAML files in conf/ hold the values: defaults live there and nowhere else.
`unmask.config.checks` adds what must fit together.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from unmask.config.augmentation import Augment
from unmask.config.data import Container, Data, default_patch_size
from unmask.config.groups import (
    ForeignPart,
    Loggers,
    Masking,
    PCATarget,
    Target,
    TokensTarget,
)
from unmask.config.recipes import FITTED_STAGES, STAGES, StageName, StageRecipes
from unmask.config.section import (
    IS_PATH,
    Count,
    OpenFraction,
    PathText,
    Positive,
    Section,
    Seed,
)
from unmask.config.stage_paths import resolve_stage
from unmask.config.trainer import Checkpoint, Spikes, Trainer, Watch

Width = Annotated[int, Field(ge=1, le=16_384)]
Depth = Annotated[int, Field(ge=1, le=256)]
DecoderDepth = Annotated[int, Field(ge=0, le=256)]
Control = Literal["random", "pixels"]
Resampling = Literal["port", "timm"]


class Model(Section):
    name: str = Field(description="the model's name in tables")
    width: Width = Field(description="width of the encoder: channels of its tokens")
    depth: Depth = Field(description="number of transformer blocks in the encoder")
    heads: Width = Field(description="attention heads of the encoder")
    mlp_ratio: Positive = Field(
        description="hidden width of the MLP, as a multiple of the block's width"
    )
    patch_size_at_224: Count = Field(
        description=(
            "side of a patch for images of 224 pixels (14 for ViT-H, 16 for the others)"
        )
    )


class Encoder(Section):
    mask_tokens: bool = Field(
        description=(
            "feed mask tokens to the encoder in place of the hidden patches (Table 1c)"
        )
    )


class Decoder(Section):
    # without a block, mask tokens must have passed through the encoder
    depth: DecoderDepth = Field(
        description=(
            "number of transformer blocks in the decoder (Table 1a); 0: a linear head,"
            " which needs encoder.mask_tokens=true"
        )
    )
    width: Width = Field(
        description="width of the decoder: channels of its tokens (Table 1b)"
    )
    heads: Width = Field(description="attention heads of the decoder")
    mlp_ratio: Positive | None = Field(
        description=(
            "hidden width of the decoder's MLP, as a multiple of its width; null:"
            " model.mlp_ratio"
        )
    )


class Scale(Section):
    """A size at which the paper's experiments are run.

    Its values are read from its file, by `unmask.config.experiments`.
    """

    name: str = Field(description="the scale's name in tables and files")
    seeds: Annotated[list[Seed], Field(min_length=1)] = Field(
        description="every cell of an experiment is run with each of these seeds"
    )
    cells: dict[str, dict[str, list[str] | None] | None] = Field(
        description=(
            "experiment: row: overrides, where the paper's values do not fit this size;"
            " null leaves the row or the experiment out"
        )
    )
    # with defaults: configs of older ledgers lack them
    looks: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)] = Field(
        default=[3, 6, 12, 24],
        description="after how many seeds of a row claims are judged",
    )
    alike: dict[StageName, Positive] = Field(
        default={},
        description="by stage: the largest difference, in points, that counts as none",
    )

    @field_validator("looks")
    @classmethod
    def check_looks(cls, looks: list[int]) -> list[int]:
        if looks != sorted(set(looks)):
            raise ValueError(f"looks = {looks}: give rising numbers of seeds")
        return looks


def as_list(value: Any) -> Any:
    """Turn one name into a list of it, so that stages=knn may be typed."""
    return [value] if isinstance(value, str) else value


class Config(Section, StageRecipes):
    """The whole config; the stages' recipes stand beside their table."""

    seed: Seed = Field(
        description="initialisation, order of images, crops and masks follow from it"
    )
    # the paper's is 0.75
    mask_ratio: OpenFraction = Field(
        description="fraction of the patches that is hidden (Fig. 5)"
    )
    labels: Count | None = Field(
        description=(
            "fine-tune and train from scratch on this many labelled images, spread"
            " evenly over the classes; null: on all"
        )
    )
    stages: Annotated[
        list[StageName], BeforeValidator(as_list), Field(min_length=1)
    ] = Field(description="the stages to run, in order")
    controls: list[Control] = Field(
        description=(
            "also measure a random encoder, and the raw pixels, in the same way, for"
            " comparison"
        )
    )
    source: Container = Field(
        description=(
            "how the images of data=image_folder or imagenet are stored"
            " (docs/containers.md)"
        )
    )
    init_from: PathText | None = Field(
        description=(
            "pretrained weights to start from: an official MAE, Hugging Face or timm"
            " file, or a stage's folder; null: random weights"
        )
    )
    weights: Annotated[str, Field(min_length=1)] | None = Field(
        description=(
            "which weights of init_from's file to take, where it holds several: ema, or"
            " their key or prefix; null: the plain ones"
        )
    )
    weights_grid: tuple[Count, Count] | None = Field(
        alias="grid",
        description=(
            "[rows, columns] of patches that init_from's positions are for; null: what"
            " the file says, else the model's own grid where the number fits"
        ),
    )
    positions: Resampling = Field(
        description=(
            "how positions are resampled to another grid: port (the official code and"
            " Hugging Face: no antialiasing), or timm (antialiased)"
        )
    )
    stop_after: Count | None = Field(
        description=(
            "stop each stage after this many steps, with the learning rates of the full"
            " schedule; null: train to the end"
        )
    )
    runs_dir: Annotated[str, Field(min_length=1), IS_PATH] = Field(
        description="folder of the ledger, where all results are stored"
    )
    wait: bool = Field(
        description=(
            "if another process is working on a stage: true waits for its result, false"
            " fails at once"
        )
    )
    rerun: bool = Field(
        default=False,
        description=(
            "make results anew whose code has changed since, or of which nobody knows,"
            " or whose weights were removed; what is there is moved into the stage's"
            " folder earlier/"
        ),
    )
    adopt: bool = Field(
        default=False,
        description=(
            "keep results whose code has changed since, and record that the change"
            " does not matter"
        ),
    )
    scale: Scale | None = Field(
        default=None, description="set by scale=embedded, cifar or paper"
    )
    # the paper's footnote 1: the loss on all patches costs 0.5 % accuracy
    loss_on: Literal["hidden", "all"] = Field(
        description=(
            "the patches whose error is the loss: the hidden ones, or all (footnote 1)"
        )
    )
    # each of these is a group in conf/, or a section of conf/config.yaml
    model: Model
    encoder: Encoder
    decoder: Decoder
    masking: Masking
    target: Target
    augment: Augment
    data: Data
    trainer: Trainer
    checkpoint: Checkpoint
    spikes: Spikes
    watch: Watch
    logger: Loggers

    @model_validator(mode="after")
    def find_given_stage(self) -> "Config":
        try:
            if self.init_from:
                self.init_from = resolve_stage(self.init_from, self.runs_dir)
        except ValueError as error:
            raise ValueError(f"init_from = {error}") from None
        return self

    @model_validator(mode="after")
    def choose_patch_size(self) -> "Config":
        if self.data.patch_size is None:
            self.data.patch_size = default_patch_size(
                self.data.image_size, self.model.patch_size_at_224
            )
        return self

    @model_validator(mode="after")
    def choose_decoder_ratio(self) -> "Config":
        if self.decoder.mlp_ratio is None:
            # the official port builds both from one ratio
            self.decoder.mlp_ratio = self.model.mlp_ratio
        return self

    # after choose_patch_size: validators run in the order of their definition
    @model_validator(mode="after")
    def choose_components(self) -> "Config":
        if isinstance(self.target, PCATarget) and self.target.components is None:
            assert self.data.patch_size is not None
            # the paper's 96 of 16 * 16 * 3 = 768
            values = self.data.patch_size**2 * self.data.channels
            self.target.components = max(1, values // 8)
        return self

    @property
    def grid(self) -> tuple[int, int]:
        """Return the rows and columns of patches in an image of the data's size."""
        return self.grid_for(self.data.image_size)

    def grid_for(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Return the rows and columns of patches in an image of (height, width)."""
        assert self.data.patch_size is not None
        height, width = image_size
        return height // self.data.patch_size, width // self.data.patch_size

    @property
    def active_stages(self) -> list[str]:
        """Return the stages to run, and the one whose classifier robustness tests."""
        implied = [self.robustness.of] if "robustness" in self.stages else []
        return list(dict.fromkeys([*self.stages, *implied]))

    @property
    def used_stages(self) -> list[str]:
        """Return the active stages, and those that make the weights they start from."""
        kinds = self.active_stages
        starts_given = bool(self.init_from) and "pretrain" not in self.stages
        pretrains = any(STAGES[kind].parent == "pretraining" for kind in kinds)
        if pretrains and not starts_given:
            kinds = ["pretrain", *kinds]
        if "pretrain" in kinds and not self.tokenizer_file:
            target = self.target.target_
            kinds = [k for k in FITTED_STAGES if STAGES[k].target == target] + kinds
        return list(dict.fromkeys(kinds))

    def stage_image_size(self, stage: str) -> tuple[int, int]:
        """Return (height, width) in pixels: the stage's own, or else the data's."""
        recipe = getattr(self, stage, None)
        return getattr(recipe, "image_size", None) or self.data.image_size

    @property
    def tokenizer_file(self) -> str | None:
        """Return the file of DALL-E's encoder, None where the run uses none."""
        return self.tokenizer.file if isinstance(self.target, TokensTarget) else None

    @property
    def has_foreign_parts(self) -> bool:
        """Return whether the sampler or the target is from a file of the user's."""
        return any(isinstance(p, ForeignPart) for p in (self.masking, self.target))

    @property
    def num_visible(self) -> int | None:
        """Return how many patches the encoder sees, without asking the sampler.

        It repeats `unmask.masking`, which imports torch; None for a sampler of the
        user's. With torch at hand ask the sampler: `unmask.training.build`.
        """
        if isinstance(self.masking, ForeignPart):
            return None
        rows, cols = self.grid
        # a grid keeps one patch of each 2 x 2, also of those cut off at the border
        if self.masking.target_.endswith("GridMasking"):
            return -(-rows // 2) * -(-cols // 2)
        return round(rows * cols * (1 - self.mask_ratio))

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers, as stored in config.yaml and in checkpoints."""
        return self.model_dump(by_alias=True, mode="json")
