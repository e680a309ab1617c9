"""What a config may hold: its keys, types and ranges, checked before torch is imported.

The YAML files in conf/ hold the values: defaults live there and nowhere else.
`unmask.config.checks` adds what must fit together.
"""

from math import prod
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from unmask.config.architecture import AnyDecoder, AnyModel, CrossDecoder, Encoder
from unmask.config.augmentation import Augment, augment_key, stage_augment
from unmask.config.data import Container, Data, default_patch_size
from unmask.config.foreign import is_foreign
from unmask.config.groups import (
    Loggers,
    Masking,
    Target,
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
from unmask.config.trainer import Checkpoint, Settled, Spikes, Trainer, Watch

Control = Literal["random", "pixels"]
Resampling = Literal["port", "timm"]


class Scale(Section):
    """A size at which the paper's experiments are run.

    Its values are read from its file, by `unmask.config.experiments`.
    """

    name: str = Field(description="the scale's name in tables and files")
    seeds: Annotated[list[Seed], Field(min_length=1)] = Field(
        description="every cell of an experiment is run with each of these seeds"
    )
    cells: dict[str, dict[str, list[str] | str | None] | str | None] = Field(
        description=(
            "experiment: row: overrides, where the paper's values do not fit this size;"
            " a text leaves the row or the experiment out, and says why"
        )
    )
    # with defaults: configs of older ledgers lack them
    caveats: dict[str, str] = Field(
        default={},
        description=(
            "what a reader of an experiment's results at this size, or of a stage's,"
            " must know"
        ),
    )
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
        default=None, description="set by scale=embedded, photos, cifar or paper"
    )
    # the paper's footnote 1: the loss on all patches costs 0.5 % accuracy
    loss_on: Literal["hidden", "all"] = Field(
        description=(
            "the patches whose error is the loss: the hidden ones, or all (footnote 1)"
        )
    )
    # each of these is a group in conf/, or a section of conf/config.yaml
    model: AnyModel
    encoder: Encoder
    decoder: AnyDecoder
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
        assert self.data.patch_size is not None
        self.target.complete(self.data.patch_size**2 * self.data.channels)
        return self

    @model_validator(mode="after")
    def choose_block(self) -> "Config":
        self.masking.complete(self.grid)
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
    def precision(self) -> Settled:
        """Return the precision of the results; `auto` must be settled by now."""
        precision = self.trainer.precision
        assert precision != "auto"
        return precision

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
        return self.tokenizer.file if self.target.takes_tokenizer else None

    @property
    def own_classes(self) -> dict[str, str]:
        """Return what this run uses of the user's files, by the key that names it."""
        named: dict[str, str | None] = {
            "model._target_": getattr(self.model, "target_", None),
            "decoder._target_": getattr(self.decoder, "target_", None),
            "masking._target_": self.masking.target_,
            "target._target_": self.target.target_,
            "task._target_": self.task.target_ if "task" in self.stages else None,
            "data.source": self.data.source if self.data.is_foreign else None,
        }
        for stage in self.used_stages:
            if augment := stage_augment(self, stage):
                named[f"{augment_key(stage)}._target_"] = augment.target_
        return {key: name for key, name in named.items() if name and is_foreign(name)}

    @property
    def has_foreign_parts(self) -> bool:
        """Return whether a part of the run is from a file of the user's."""
        return bool(self.own_classes)

    @property
    def num_visible(self) -> int | None:
        """Return how many patches the encoder sees, without asking the sampler.

        None for a sampler of the user's. With torch at hand ask the sampler:
        `unmask.training.build`.
        """
        return self.masking.count_visible(self.grid, self.mask_ratio)

    def count_predicted(self, num_visible: int) -> int | None:
        """Return how many hidden patches a training step predicts; None: all."""
        ratio = getattr(self.decoder, "prediction_ratio", None)
        if not isinstance(self.decoder, CrossDecoder) or ratio is None:
            return None
        patches = prod(self.grid)
        return min(max(1, round(patches * ratio)), patches - num_visible)

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers, as stored in config.yaml and in checkpoints."""
        return self.model_dump(by_alias=True, mode="json")
