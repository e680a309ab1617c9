"""The arguments of src/prepare.py."""

from typing import Annotated

from pydantic import Field, model_validator

from unmask.config.data import Container
from unmask.config.section import Count, PathText, Section

# LitData counts the bytes of a chunk in 32 bits
MAX_CHUNK_MIB = 1024


class Prepare(Section):
    input_path: PathText = Field(alias="from")
    to: PathText
    # no default says which format people want
    format: Container
    source: Container | None
    short_side: Count | None
    quality: Annotated[int, Field(ge=1, le=95)] | None
    channels: Count | None
    shard_mb: Count | None
    workers: Count | None

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
