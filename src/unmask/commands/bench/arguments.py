"""The arguments of src/bench.py, of which each subject takes some."""

from collections.abc import Iterable
from typing import Literal

from pydantic import ValidationInfo, model_validator

from unmask.config.data import Container, Data
from unmask.config.image_checks import check_reading
from unmask.config.schema import Decoder, Model
from unmask.config.section import Count, OpenFraction, Positive, Section

WITHOUT_IMAGES = {
    "seconds": "rounds counts its steps",
    "source": "only loader reads images",
}
# subject: key: what to do in place of setting it
UNUSED_KEYS = {
    "step": WITHOUT_IMAGES,
    "guards": WITHOUT_IMAGES,
    "loader": {
        "image_size": "set data.image_size",
        "patch_size": "set data.patch_size",
        "channels": "set data.channels",
        "threads": "set data.threads",
        "rounds": "set seconds, for which it measures",
    },
}


class Bench(Section):
    subject: Literal["step", "guards", "loader"]
    # the images that loader reads; the other subjects draw random ones
    data: Data | None = None
    source: Container
    seconds: Positive
    batch: Count
    rounds: Count
    # of the model; loader counts its own by data.threads
    threads: Count | None
    image_size: Count
    patch_size: Count
    channels: Count
    mask_ratio: OpenFraction
    norm_pix: bool
    device: Literal["auto", "cpu", "cuda"]
    model: Model
    decoder: Decoder

    @model_validator(mode="after")
    def check_typed(self, info: ValidationInfo) -> "Bench":
        if errors := unused_keys(self.subject, (info.context or {}).get("typed", ())):
            raise ValueError(errors)
        return self

    @model_validator(mode="after")
    def check_data(self) -> "Bench":
        if self.data is None:
            if self.subject == "loader":
                raise ValueError(
                    f"data: {self.subject} needs images: add data=image_folder"
                    " data.root=/path/to/images"
                )
            return self
        if self.subject != "loader":
            raise ValueError(
                f"data={self.data.source}: {self.subject} reads no images; leave data"
                " out, or ask for loader"
            )
        errors = "\n".join(check_reading(self.data, self.source))
        if errors:
            raise ValueError(errors)
        return self

    @model_validator(mode="after")
    def check_patches(self) -> "Bench":
        if self.image_size % self.patch_size:
            patches = max(1, round(self.image_size / self.patch_size))
            raise ValueError(
                f"image_size = {self.image_size}: not a multiple of"
                f" patch_size={self.patch_size}; the nearest image size is"
                f" {patches * self.patch_size}"
            )
        return self


def unused_keys(subject: str, typed: Iterable[str]) -> str:
    """Return an error message for each typed key that would change nothing."""
    return "\n".join(
        f"{key}: {subject} does not use it; {UNUSED_KEYS[subject][key]}"
        for key in typed
        if key in UNUSED_KEYS[subject]
    )
