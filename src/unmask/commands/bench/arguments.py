"""The arguments of src/bench.py, of which each subject takes some."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, model_validator

from unmask.config.architecture import Decoder, Model
from unmask.config.data import Container, Data
from unmask.config.hardware import Precision
from unmask.config.image_checks import check_reading
from unmask.config.section import Count, OpenFraction, PathText, Positive, Section

WITHOUT_IMAGES = {
    "seconds": "rounds counts its steps",
    "source": "only loader reads images",
}
OF_STEP = dict.fromkeys(
    ("precisions", "peers", "official", "tricks"), "only step compares implementations"
)
WITHOUT_FILE = {"out": "only step and gpu write a file"}
OF_GPU = dict.fromkeys(("smallest", "minutes"), "only gpu does")
# what is written beside the table of numbers
CHART_SUFFIX = ".svg"
# subject: key: what to do in place of setting it
UNUSED_KEYS = {
    "step": WITHOUT_IMAGES | OF_GPU,
    "guards": WITHOUT_IMAGES | OF_STEP | OF_GPU | WITHOUT_FILE,
    "gpu": WITHOUT_IMAGES
    | OF_STEP
    | dict.fromkeys(
        (
            *("model", "decoder", "batch", "rounds", "threads", "image_size"),
            *("patch_size", "channels", "mask_ratio", "norm_pix", "device"),
        ),
        "it measures sizes of its own",
    ),
    "loader": OF_STEP
    | OF_GPU
    | WITHOUT_FILE
    | {
        "image_size": "set data.image_size",
        "patch_size": "set data.patch_size",
        "channels": "set data.channels",
        "threads": "set data.threads",
        "rounds": "set seconds, for which it measures",
    },
}


class Bench(Section):
    subject: Literal["step", "guards", "loader", "gpu"]
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
    precisions: Annotated[list[Precision], Field(min_length=1)]
    peers: list[Literal["transformers", "lightly"]]
    official: PathText | None
    tricks: bool
    out: PathText | None
    minutes: Positive
    smallest: bool
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

    @model_validator(mode="after")
    def check_visible(self) -> "Bench":
        patches = (self.image_size // self.patch_size) ** 2
        visible = round(patches * (1 - self.mask_ratio))
        if not 0 < visible < patches:
            raise ValueError(
                f"mask_ratio = {self.mask_ratio}: keeps {visible} of {patches} patches;"
                f" pick one that keeps between 1 and {patches - 1}"
            )
        return self

    @model_validator(mode="after")
    def check_official(self) -> "Bench":
        if self.official is None:
            return self
        if not (Path(self.official) / "models_mae.py").is_file():
            raise ValueError(
                f"official = {self.official}: no folder with models_mae.py; git clone"
                " https://github.com/facebookresearch/mae and give its folder"
            )
        if self.channels != 3:
            raise ValueError(
                f"channels = {self.channels}: the official code takes 3; leave official"
                " out"
            )
        ratio = self.decoder.mlp_ratio
        if ratio not in (None, self.model.mlp_ratio):
            raise ValueError(
                f"decoder.mlp_ratio = {ratio}: the official code has one for encoder"
                f" and decoder, here {self.model.mlp_ratio}; leave official out"
            )
        return self

    @model_validator(mode="after")
    def check_out(self) -> "Bench":
        if self.out is None:
            return self
        if self.smallest:
            raise ValueError(
                f"out = {self.out}: smallest=true only shows that all of gpu runs; its"
                " numbers make no page: leave out= away, or smallest=true"
            )
        out = Path(self.out)
        kind, suffix = ("page", ".md") if self.subject == "gpu" else ("table", ".csv")
        if out.suffix != suffix:
            raise ValueError(
                f"out = {out}: a {kind} is written; give a name that ends in {suffix}"
            )
        if not out.parent.is_dir():
            raise ValueError(
                f"out = {out}: there is no folder {out.parent}; make it, or name"
                " another"
            )
        return self


def unused_keys(subject: str, typed: Iterable[str]) -> str:
    """Return an error message for each typed key that would change nothing."""
    return "\n".join(
        f"{key}: {subject} does not use it; {UNUSED_KEYS[subject][key]}"
        for key in typed
        if key in UNUSED_KEYS[subject]
    )
