"""What the smaller commands may be told: types and ranges, checked before torch is imported."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from unmask.runs.checks import ConfigError, described
from unmask.runs.schema import Count, Decoder, Model, Part, Share

Arguments = TypeVar("Arguments", bound=Part)


class Reconstruct(Part):
    checkpoint: str = Field(description="a step=N.ckpt file or a stage's folder in the ledger")
    images: str | None = Field(description="an image, a folder of images, or null: the data set's validation images")
    count: Count = Field(description="how many")
    mask_ratio: Share | None = Field(description="null: the checkpoint's")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(description="another seed, other masks")
    out: str = Field(description="where the picture goes")


class Bench(Part):
    batch: Count = Field(description="images a step")
    rounds: Count = Field(description="timed steps of each contestant, in turn")
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
    def patches_fit(self) -> "Bench":
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size = {self.image_size}: not a multiple of patch_size={self.patch_size}; "
                f"nearest: {max(1, round(self.image_size / self.patch_size)) * self.patch_size}"
            )
        return self


def arguments(kind: type[Arguments], raw: Any) -> Arguments:
    """The typed arguments. Raises ConfigError with a line for each fault."""
    missing = [name for name, field in kind.model_fields.items() if field.annotation is str and raw[name] is None]
    if missing:
        raise ConfigError("\n".join(f"{name}: missing; give {kind.model_fields[name].description}" for name in missing))
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(described(error)) from None
