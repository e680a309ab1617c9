"""Which results depend on where evaluation's view of an image has its edges."""

from typing import Any

from unmask.config.data import is_whole
from unmask.config.schema import Config

# (height, width) of all images, as far as known; none: nobody knows
ImageSizes = frozenset[tuple[int, int]]


def view_science(
    config: Config, kind: str, image_sizes: ImageSizes = frozenset()
) -> dict[str, Any]:
    """Return what a stage's result depends on where views lie between pixels.

    Nothing where the result is what it was before there was a choice: boxes of whole
    pixels, whole images of a known size, and a pretraining whose images are cut at
    random. There only the validation loss follows the view, and not the weights, which
    all other stages start from.
    """
    if config.data.eval_view == "whole_pixels":
        return {}
    if kind == "pretrain" and config.augment.crop not in ("none", "padded"):
        return {}
    # of a robustness stage on other images, nobody knows the sizes
    is_known = image_sizes and not (
        kind == "robustness" and config.robustness.source != "corrupted"
    )
    trained = config.robustness.of if kind == "robustness" else kind
    shape = config.stage_image_size(trained)
    shares = {config.data.eval_crop, config.data.eval_crop_at(shape)}
    # views of whole images once were decoded at a part of the size
    if is_known and config.data.decode != "scaled":
        pairs = [(size, share) for size in image_sizes for share in shares]
        if all(is_whole(size, shape, share) for size, share in pairs):
            return {}
    return {"view": config.data.eval_view}
