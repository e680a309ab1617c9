"""What the smaller commands may be told: types and ranges, checked before torch is imported."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from unmask.config.checks import ConfigError, described, of_reading, refuse_secrets
from unmask.config.schema import (
    Container,
    Count,
    Data,
    Decoder,
    Model,
    Part,
    Positive,
    Proportion,
    Share,
)

Arguments = TypeVar("Arguments", bound=Part)
LARGEST_CHUNK = 1024  # MiB


class Reconstruct(Part):
    checkpoint: str = Field(
        description="a step=N.ckpt file or a stage's folder in the ledger"
    )
    images: str | None = Field(
        description=(
            "an image, a folder of images, or null: the data set's validation images"
        )
    )
    count: Count = Field(description="how many")
    mask_ratio: Share | None = Field(description="null: the checkpoint's")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        description="another seed, other masks"
    )
    out: str = Field(description="where the picture goes")


class Predict(Part):
    checkpoint: str = Field(
        description=(
            "a classifier: a stage's folder in the ledger, its file, or weights of"
            " others"
        )
    )
    images: str = Field(description="an image or a folder of images")
    count: Count | None = Field(
        description="how many, in the order of their names; null: all"
    )
    top: Count = Field(description="how many classes are named for each image")
    out: str | None = Field(description="a CSV file with all of it; null: none")
    classes: str | None = Field(
        description="a file of class names, one a line; null: the checkpoint's own"
    )
    eval_crop: Proportion | None = Field(
        description="side of the centre crop; null: the checkpoint's, 0.875 of others"
    )
    heads: Count | None = Field(
        description=(
            "of weights of others; null: as recorded, or the known ViT's of this width"
        )
    )
    grid: tuple[Count, Count] | None = Field(
        description="[rows, columns] of patches; null: as recorded, or square"
    )
    device: Literal["auto", "cpu", "cuda"]


class Convert(Part):
    source: str = Field(
        alias="from",
        description="a file, a Hugging Face folder or a stage's folder in the ledger",
    )
    to: str = Field(description="a file, or with layout=hf a folder")
    layout: Literal["timm", "hf", "official", "safetensors"] = Field(
        description="what is written"
    )
    heads: Count | None = Field(
        description=(
            "of the encoder; null: as recorded, or the known ViT's of this width"
        )
    )
    decoder_heads: Count | None = Field(
        description="of the decoder; null: as recorded, or 16 as in the paper"
    )
    grid: tuple[Count, Count] | None = Field(
        description="[rows, columns] of patches; null: as recorded, or square"
    )
    overwrite: bool = Field(
        description="whether something that stands at `to` may be replaced"
    )


class Prepare(Part):
    given: str = Field(alias="from", description="a folder of images or of shards")
    to: str = Field(
        description="a folder; one in which the same command was killed is gone on with"
    )
    format: Container = Field(
        description="what is written; raw: uint8 pixels, which are read in microseconds"
    )
    source: Container | None = Field(description="what from= holds; null: found out")
    short_side: Count | None = Field(
        description=(
            "pixels that the shorter side is brought to, never up; null: as it is"
        )
    )
    quality: Annotated[int, Field(ge=1, le=95)] | None = Field(
        description="of JPEG; null: 90 with short_side, else bytes stay as they are"
    )
    channels: Count | None = Field(description="of raw pixels; null: 3")
    shard_mb: Count | None = Field(description="null: 256; litdata 64, raw 1024")
    workers: Count | None = Field(description="threads; null: one for each core")

    @model_validator(mode="after")
    def raw_alone(self) -> "Prepare":
        if self.quality and self.format == "raw":
            raise ValueError(
                f"quality = {self.quality}: raw pixels have none; set quality=null"
            )
        if self.channels and self.format != "raw":
            raise ValueError(
                f"channels = {self.channels}: only raw pixels are brought to a number"
                " of them; set null"
            )
        return self

    @model_validator(mode="after")
    def chunks_are_small(self) -> "Prepare":
        """LitData counts the bytes of a chunk in 32 bits."""
        if self.format == "litdata" and (self.shard_mb or 0) > LARGEST_CHUNK:
            raise ValueError(
                f"shard_mb = {self.shard_mb}: LitData's chunks have {LARGEST_CHUNK} at"
                " most"
            )
        return self


class Replay(Part):
    folder: str = Field(
        description=(
            "a stage's folder that holds nonfinite/record.json, or that nonfinite/"
        )
    )


class Verify(Part):
    """The part of src/verify.py's arguments that is not the run's."""

    steps: Annotated[int, Field(ge=2)] = Field(
        description="of each stage, with the learning rates of the whole"
    )
    kills: Count = Field(description="interruptions of each stage")
    processes: list[Count] = Field(description="numbers of processes that are compared")
    minutes: Positive = Field(
        description="a run that makes no step for so long is ended"
    )
    folder: str | None = Field(
        description="where its scratch space lies; null: among temporary files"
    )
    loss_bound: Positive = Field(description="relative, between numbers of processes")
    weights_bound: Positive = Field(
        description="relative norm, between numbers of processes"
    )


class VerifyArguments(Part):
    verify: Verify


class Report(Part):
    experiment: str = Field(
        description="a name, names with commas between, ablations or all"
    )
    scale: str | None = Field(
        description="embedded, cifar, paper; null: those that have results"
    )
    runs_dir: str = Field(description="the ledger")
    out: str | None = Field(
        description=(
            "the folder for the page and its files; null: in the ledger's report/"
        )
    )
    keep: bool = Field(
        description=(
            "also write experiments/<name>/results/<scale>.csv and README.md, of all"
            " scales"
        )
    )
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = (
        Field(description="null: the scale's, and others that are kept")
    )
    overrides: list[str] = Field(description="what the sweep was given besides")

    @model_validator(mode="after")
    def seeds_differ(self) -> "Report":
        if self.seeds and len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds = {self.seeds}: each only once")
        return self


class Send(Part):
    folders: Annotated[list[str], Field(min_length=1)] = Field(
        description="of finished stages"
    )
    project: str | None = Field(description="null: the stage's own, else unmask")
    entity: str | None = Field(description="null: the stage's own, else the account's")
    finish_seconds: Positive = Field(
        description="how long W&B has to take the last rows"
    )


class Measure(Part):
    """The part of src/measure.py's arguments that is not the run's."""

    images: Count | None = Field(
        description="so many of the training images, drawn; null: all"
    )
    out: str | None = Field(
        description=(
            "where mean, std and the rest are kept; null: in runs_dir/statistics/"
        )
    )
    threads: Count | None = Field(description="that decode; null: one a core")


class Bench(Part):
    subject: Literal["step", "guards", "loader"] = Field(
        description=(
            "step: a training step beside a peer's; guards: what looking after a run"
            " costs; loader: reading"
        )
    )
    data: Data | None = Field(default=None, description="the images that loader reads")
    source: Container = Field(
        description=(
            "what loader's images lie in: folder, webdataset, parquet, litdata or raw"
        )
    )
    seconds: Positive = Field(
        description="how long loader compares the ways of reading"
    )
    batch: Count = Field(description="images a step")
    rounds: Count = Field(
        description="timed steps of each contestant, in turn; of guards: checkpoints"
    )
    threads: Count | None = Field(description="null: torch's choice")
    image_size: Count
    patch_size: Count
    channels: Count
    mask_ratio: Share
    norm_pix: bool = Field(description="normalised pixel targets")
    device: Literal["auto", "cpu", "cuda"]
    model: Model
    decoder: Decoder

    @model_validator(mode="after")
    def images_fit(self) -> "Bench":
        if (self.data is None) == (self.subject == "loader"):
            raise ValueError(
                "data: loader needs images: add data=image_folder"
                " data.root=/path/to/images"
                if self.data is None
                else (
                    f"data={self.data.source}: {self.subject} reads no images; leave"
                    " data out, or ask for loader"
                )
            )
        if faults := "\n".join(of_reading(self.data, self.source) if self.data else ()):
            raise ValueError(faults)
        return self

    @model_validator(mode="after")
    def patches_fit(self) -> "Bench":
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size = {self.image_size}: not a multiple of"
                f" patch_size={self.patch_size}; nearest:"
                f" {max(1, round(self.image_size / self.patch_size)) * self.patch_size}"
            )
        return self


UNUSED = {
    "step": {
        "seconds": "rounds counts its steps",
        "source": "only loader reads images",
    },
    "guards": {
        "seconds": "rounds counts its steps",
        "source": "only loader reads images",
    },
    "loader": {
        "image_size": "set data.image_size",
        "patch_size": "set data.patch_size",
        "channels": "set data.channels",
        "threads": "set data.threads",
        "rounds": "set seconds, for which it measures",
    },
}


def unused(subject: str, typed: Iterable[str]) -> str:
    """A line for each key of bench that was typed and would change nothing."""
    return "\n".join(
        f"{key}: {subject} takes none; {UNUSED[subject][key]}"
        for key in typed
        if key in UNUSED[subject]
    )


def keyed(kind: type[Part]) -> dict[str, FieldInfo]:
    """The fields by the keys that users type."""
    return {field.alias or name: field for name, field in kind.model_fields.items()}


def arguments(kind: type[Arguments], raw: Any) -> Arguments:
    """The typed arguments. Raises ConfigError with a line for each fault."""
    texts = {
        key: field.description
        for key, field in keyed(kind).items()
        if field.annotation is str
    }
    texts |= (
        {"format": "folder, webdataset, parquet, litdata or raw"}
        if kind is Prepare
        else {}
    )
    missing = [
        f"{key}: missing; give {description}"
        for key, description in texts.items()
        if raw[key] is None
    ]
    if missing:
        raise ConfigError("\n".join(missing))
    refuse_secrets(raw)
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(described(error)) from None
