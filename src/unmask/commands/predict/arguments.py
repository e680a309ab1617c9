"""The arguments of src/predict.py."""

from typing import Literal

from unmask.config.section import Count, PathText, PositiveFraction, Section


class Predict(Section):
    checkpoint: PathText
    images: PathText
    count: Count | None
    top: Count
    out: PathText | None
    classes: PathText | None
    eval_crop: PositiveFraction | None
    # neither heads nor grid can be read off the shapes of weights
    heads: Count | None
    grid: tuple[Count, Count] | None
    weights: str | None
    device: Literal["auto", "cpu", "cuda"]
