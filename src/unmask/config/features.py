"""Which features can be taken from an encoder: checked before torch is imported."""

from numbers import Integral
from typing import Literal, get_args

# patches are not pooled; the others are those of kNN and of frozen probes
FeaturePooling = Literal["cls", "mean", "mean_norm", "patches"]


def resolve_layer(layer: int | None, depth: int) -> int | None:
    """Return the number of blocks, counted from the front; ValueError outside of depth.

    None stays: all blocks, and the encoder's norm.
    """
    if layer is None:
        return None
    # Python's callers may give anything
    if not isinstance(layer, Integral) or not -depth <= layer <= depth:
        raise ValueError(
            f"layer={layer!r}: this encoder has {depth} blocks; give 0 (what the first"
            f" block receives) to {depth}, -1 for the last one and so on, or leave it"
            " out for the last one with the encoder's norm"
        )
    return int(layer) + (depth + 1 if layer < 0 else 0)


def check_pool(pool: str) -> FeaturePooling:
    """Return the name of a pooling; ValueError for any other word."""
    for known in get_args(FeaturePooling):
        if pool == known:
            return known
    raise ValueError(f"pool={pool}: give one of {', '.join(get_args(FeaturePooling))}")
