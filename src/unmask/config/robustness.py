"""Robustness: what a finished classifier is tested on (Table 13)."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from unmask.config.section import Count, PathText, Section

Corruption = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
]

# in robustness.sets: the data set's own validation images, corrupted
CORRUPTED = "corrupted"
MIN_CORRUPTED_SIDE = 8  # pixels; the corruptions do not work on less


class Robustness(Section):
    """What a classifier is tested on beside its validation images (Table 13)."""

    of: Literal["finetune", "partial_finetune", "scratch"] = Field(
        description="the stage that trains the classifier to test"
    )
    source: Literal["corrupted", "corrupted_folders", "folder"] = Field(
        description=(
            "`corrupted`: corrupt the data set's validation images on the fly;"
            " `corrupted_folders`: read root/<corruption>/<severity>/<class>/"
            " (ImageNet-C); `folder`: read root/<class>/"
        )
    )
    root: PathText | None = Field(
        description="where the folders lie; not used with source=corrupted"
    )
    sets: Annotated[list[PathText], Field(min_length=1)] | None = Field(
        default=None,
        description=(
            "several sets, each measured by itself: folders as of source=folder, and"
            " the word `corrupted` for the data set's own images; in place of root"
        ),
    )
    unknown_classes: Literal["refuse", "leave_out"] = Field(
        default="refuse",
        description=(
            "what becomes of images whose folder is none of the classifier's classes"
        ),
    )
    corruptions: list[Corruption] | None = Field(
        description="which of ImageNet-C's 15 corruptions; null: all"
    )
    severities: Annotated[
        list[Annotated[int, Field(ge=1, le=5)]], Field(min_length=1)
    ] = Field(description="severities of the corruptions, from 1 (weak) to 5 (strong)")
    images: Count | None = Field(
        description="test this many images, spread evenly over the set; null: all"
    )


def check_robustness(config: Any) -> Iterator[str]:
    """Yield an error message for each value that does not fit the others."""
    kind = config.robustness.of
    recipe = config.robustness
    if recipe.sets and recipe.root:
        yield (
            f"robustness.root = {recipe.root}: robustness.sets names the folders; add"
            " it there, and set robustness.root=null"
        )
    if recipe.sets and recipe.source == "corrupted_folders":
        yield (
            f"robustness.source = {recipe.source}: robustness.sets are folders of"
            " classes; set robustness=folders, and name each folder of them"
        )
    if recipe.source != CORRUPTED and not (recipe.root or recipe.sets):
        yield (
            f"robustness.root: robustness.source={recipe.source} needs the folder of"
            " those images; add robustness.root=/path/to/images, or several:"
            " 'robustness.sets=[/path/to/a,/path/to/b]'"
        )
    if recipe.sets and len(set(recipe.sets)) < len(recipe.sets):
        yield f"robustness.sets = {recipe.sets}: names a set twice; name it once"
    side = min(config.stage_image_size(kind))
    if side < MIN_CORRUPTED_SIDE:
        yield (
            f"robustness: corruptions need images of {MIN_CORRUPTED_SIDE} x"
            f" {MIN_CORRUPTED_SIDE} pixels or more, and those of {kind} have a side"
            f" of {side}; set a larger data.image_size, or leave robustness out of"
            " stages"
        )


def describe_robustness(recipe: Any, result: dict[str, Any]) -> str:
    """Say in a few words what was measured, for the page of a run."""
    severities = ", ".join(map(str, recipe.severities))
    text = f"{recipe.source}, severities {severities}, {result['images']:,} images"
    clean = result["metrics"].get("val/clean_accuracy")
    return text if clean is None else f"{text} (clean: {clean:.1f} %)"
