"""The arguments of src/embed.py, and what can be checked without torch."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from unmask.commands.foreign_weights import check_foreign, refuse_hints
from unmask.commands.out_file import PARQUET_SUFFIX, check_out
from unmask.config.checks import ConfigError
from unmask.config.features import (
    STAGES_WITH_ENCODER,
    FeaturePooling,
    refuse_stage,
    resolve_layer,
)
from unmask.config.section import Count, PathText, PositiveFraction, Section
from unmask.config.stage_paths import StagePath
from unmask.data.listing.conventions import IMAGE_SUFFIXES
from unmask.exchange.geometry import Hints
from unmask.exchange.header import read_header

OUT_SUFFIXES = (PARQUET_SUFFIX, ".npy")


class Embed(Section):
    checkpoint: StagePath
    images: PathText
    out: PathText
    count: Count | None
    layer: int | None
    pool: FeaturePooling | None
    dtype: Literal["float32", "float16"]
    batch_size: Count | None
    num_workers: Annotated[int, Field(ge=0)] | None
    eval_crop: PositiveFraction | None
    # neither heads nor grid can be read off the shapes of weights
    heads: Count | None
    grid: tuple[Count, Count] | None
    weights: str | None
    device: Literal["auto", "cpu", "cuda"]
    neighbours: bool
    map: bool
    overwrite: bool

    @property
    def hints(self) -> Hints:
        return Hints(heads=self.heads, grid=self.grid)


def check_embed_places(arguments: Embed) -> None:
    """Raise ConfigError for places that are not there, or that are read."""
    if not Path(arguments.images).exists():
        raise ConfigError(f"images={arguments.images}: no such file or folder")
    out = Path(arguments.out)
    beside = [out.with_name(f"{out.name}{suffix}") for suffix in (".csv", ".json")]
    check_out(out, OUT_SUFFIXES, {"images": arguments.images}, beside)
    draws = arguments.neighbours or arguments.map
    is_image = draws or out.suffix.lower() in IMAGE_SUFFIXES
    if is_image and Path(arguments.images).resolve() in out.resolve().parents:
        raise ConfigError(
            f"out={out}: what is written would be one of the images in"
            f" images={arguments.images}; give a place outside of it"
        )


def check_pictures(arguments: Embed, count: int) -> None:
    """Raise ConfigError for pictures of patches, or of too few images."""
    for key, fewest in (("neighbours", 2), ("map", 3)):
        if not getattr(arguments, key):
            continue
        if arguments.pool == "patches":
            raise ConfigError(
                f"{key}=true compares images, which have one vector each for pool=cls"
                f" or mean; pool={arguments.pool} has one for each patch"
            )
        if count < fewest:
            raise ConfigError(
                f"{key}=true needs at least {fewest} images, and there"
                f" {'is' if count == 1 else 'are'} {count}; leave it out"
            )


def check_encoder(arguments: Embed) -> None:
    """Raise ConfigError for weights without an encoder, or with too few blocks."""
    checkpoint = Path(arguments.checkpoint)
    outline = check_foreign(
        "checkpoint", checkpoint, arguments.hints, arguments.weights
    )
    if outline:
        depth = outline.geometry.encoder.depth
    else:
        refuse_hints(checkpoint, arguments.hints, weights=arguments.weights)
        record: dict[str, Any] = read_header(checkpoint).record
        if record["stage"] not in STAGES_WITH_ENCODER:
            refuse_stage(checkpoint, record["stage"])
        depth = record["config"]["model"]["depth"]
    try:
        resolve_layer(arguments.layer, depth)
    except ValueError as error:
        raise ConfigError(f"{error}") from None
