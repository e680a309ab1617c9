"""The arguments of the smaller commands, checked before torch is imported."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic.fields import FieldInfo

from unmask.config.checks import AnySection, raise_errors, refuse_secrets, validate
from unmask.config.data import Container
from unmask.config.section import (
    Count,
    OpenFraction,
    Positive,
    PositiveFraction,
    Section,
    Seed,
)

# LitData counts the bytes of a chunk in 32 bits
MAX_CHUNK_MIB = 1024
CONTAINER_NAMES = "folder, webdataset, parquet, litdata or raw"


class Reconstruct(Section):
    checkpoint: str = Field(
        description="a step=N.ckpt file or a stage's folder in the ledger"
    )
    images: str | None = Field(
        description=(
            "an image, a folder of images, or null: the data set's validation images"
        )
    )
    count: Count = Field(description="number of images")
    mask_ratio: OpenFraction | None = Field(
        description="fraction of the patches that is hidden; null: as in pretraining"
    )
    seed: Seed = Field(description="seed of the masks")
    out: str = Field(description="a file name for the picture")


class Predict(Section):
    checkpoint: str = Field(
        description=(
            "a classifier: a stage's folder in the ledger, its step=N.ckpt file, or"
            " fine-tuned weights (official MAE, timm, Hugging Face)"
        )
    )
    images: str = Field(description="an image or a folder of images")
    count: Count | None = Field(
        description="number of images, in the order of their names; null: all"
    )
    top: Count = Field(description="number of classes named for each image")
    out: str | None = Field(
        description="a CSV file with all predictions; null: no file"
    )
    classes: str | None = Field(
        description="a file of class names, one in a line; null: the checkpoint's own"
    )
    eval_crop: PositiveFraction | None = Field(
        description=(
            "side of the centre crop, as a fraction of the image; null: the"
            " checkpoint's, or 0.875 for weights without one"
        )
    )
    heads: Count | None = Field(
        description=(
            "attention heads, if the weights do not say; null: as recorded, or those of"
            " the known ViT of this width"
        )
    )
    # neither heads nor grid can be read off the shapes of weights
    grid: tuple[Count, Count] | None = Field(
        description="[rows, columns] of patches; null: as recorded, or square"
    )
    device: Literal["auto", "cpu", "cuda"]


class Convert(Section):
    # users type from=, which is a keyword of Python
    source: str = Field(
        alias="from",
        description="a file, a Hugging Face folder or a stage's folder in the ledger",
    )
    to: str = Field(description="a file, or with layout=hf a folder")
    layout: Literal["timm", "hf", "official", "safetensors"] = Field(
        description="the layout to write"
    )
    heads: Count | None = Field(
        description=(
            "attention heads of the encoder; null: as recorded, or those of the known"
            " ViT of this width"
        )
    )
    decoder_heads: Count | None = Field(
        description=(
            "attention heads of the decoder; null: as recorded, or 16 as in the paper"
        )
    )
    grid: tuple[Count, Count] | None = Field(
        description="[rows, columns] of patches; null: as recorded, or square"
    )
    overwrite: bool = Field(description="replace what already exists at `to`")


class Prepare(Section):
    input_path: str = Field(alias="from", description="a folder of images or of shards")
    to: str = Field(
        description=(
            "a folder; one in which the same command was interrupted is completed"
        )
    )
    format: Container = Field(
        description="what to write; raw: uint8 pixels, which are read in microseconds"
    )
    source: Container | None = Field(
        description="what `from` holds; null: found out from its files"
    )
    short_side: Count | None = Field(
        description=(
            "shrink images whose shorter side has more pixels than this; null: keep"
            " their size"
        )
    )
    quality: Annotated[int, Field(ge=1, le=95)] | None = Field(
        description=(
            "JPEG quality; null: 90 with short_side, otherwise files are copied as they"
            " are"
        )
    )
    channels: Count | None = Field(description="channels of raw pixels; null: 3")
    shard_mb: Count | None = Field(
        description="size of a shard in MiB; null: 256, for litdata 64, for raw 1024"
    )
    workers: Count | None = Field(
        description="number of threads; null: one for each core"
    )

    @model_validator(mode="after")
    def check_format(self) -> "Prepare":
        if self.quality and self.format == "raw":
            raise ValueError(
                f"quality = {self.quality}: raw pixels have none; set quality=null"
            )
        if self.channels and self.format != "raw":
            raise ValueError(
                f"channels = {self.channels}: only format=raw sets the number of"
                " channels; set channels=null"
            )
        if self.format == "litdata" and (self.shard_mb or 0) > MAX_CHUNK_MIB:
            raise ValueError(
                f"shard_mb = {self.shard_mb}: a LitData chunk has {MAX_CHUNK_MIB} MiB"
                f" at most; set shard_mb={MAX_CHUNK_MIB} or less"
            )
        return self


class Replay(Section):
    folder: str = Field(
        description=(
            "a stage's folder with nonfinite/record.json in it, or that nonfinite/"
            " folder"
        )
    )


class Verify(Section):
    """What src/verify.py takes beside the run's own config."""

    # an interruption needs a step before it and one after it
    steps: Annotated[int, Field(ge=2)] = Field(
        description=(
            "steps of each stage, with the learning rates of the full schedule"
        )
    )
    kills: Count = Field(description="how often each stage is interrupted")
    processes: list[Count] = Field(
        description="also train with these numbers of processes, and compare"
    )
    minutes: Positive = Field(description="end a run that makes no step for this long")
    folder: str | None = Field(
        description="a folder for scratch files; null: among temporary files"
    )
    loss_bound: Positive = Field(
        description="largest relative difference of losses between numbers of processes"
    )
    # |a - b| / |b| over all weights
    weights_bound: Positive = Field(
        description=(
            "largest relative difference of weights (norm) between numbers of processes"
        )
    )


# conf/verify.yaml has the key `verify` alone
class VerifyArguments(Section):
    verify: Verify


class Report(Section):
    experiment: str = Field(
        description="a name, names separated by commas, ablations or all"
    )
    scale: str | None = Field(
        description="embedded, cifar or paper; null: every scale that has results"
    )
    runs_dir: str = Field(description="the folder of the ledger")
    out: str | None = Field(
        description="folder for the page and its files; null: report/ in the ledger"
    )
    keep: bool = Field(
        description=(
            "also write the results of all scales to"
            " experiments/<name>/results/<scale>.csv and README.md"
        )
    )
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = (
        Field(description="null: the scale's, and others that are kept")
    )
    overrides: list[str] = Field(
        description="other overrides that the sweep was started with"
    )

    @model_validator(mode="after")
    def check_seeds(self) -> "Report":
        if self.seeds and len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds = {self.seeds}: give each seed only once")
        return self


class Send(Section):
    folders: Annotated[list[str], Field(min_length=1)] = Field(
        description="the folders of finished stages"
    )
    project: str | None = Field(
        description="W&B project; null: the stage's own, or else unmask"
    )
    entity: str | None = Field(
        description="W&B user or team; null: the stage's own, or else the account's"
    )
    finish_seconds: Positive = Field(
        description="how long to wait for W&B to take the last rows"
    )


class Measure(Section):
    """What src/measure.py takes beside the run's own config."""

    images: Count | None = Field(
        description="number of training images to measure, drawn at random; null: all"
    )
    out: str | None = Field(
        description="file for the result; null: in runs_dir/statistics/"
    )
    threads: Count | None = Field(
        description="number of decoding threads; null: one for each core"
    )


def fields_by_key(section: type[Section]) -> dict[str, FieldInfo]:
    """Return the fields of a section by the keys that users type."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def parse_arguments(section: type[AnySection], raw: Any) -> AnySection:
    """Return the typed arguments; ConfigError with one line for each error."""
    # what must be typed: a text without a default
    required = {
        key: field.description
        for key, field in fields_by_key(section).items()
        if field.annotation is str
    }
    # no default says which format people want
    if section is Prepare:
        required["format"] = CONTAINER_NAMES
    raise_errors(
        f"{key}: missing; give {description}"
        for key, description in required.items()
        if raw[key] is None
    )
    refuse_secrets(raw)
    return validate(section, raw)
