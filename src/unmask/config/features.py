"""Which features can be taken from an encoder: checked before torch is imported."""

from numbers import Integral
from pathlib import Path
from typing import Literal, NoReturn, get_args

from unmask.config.checks import ConfigError
from unmask.config.recipes import LABELLED_STAGES

STAGES_WITH_ENCODER = ("pretrain", *LABELLED_STAGES)
# patches are not pooled; the others are those of kNN and of frozen probes
FeaturePooling = Literal["cls", "mean", "mean_norm", "patches"]


def refuse_stage(path: Path, stage: str) -> NoReturn:
    """Raise ConfigError for a checkpoint of a stage that has no encoder."""
    raise ConfigError(
        f"checkpoint={path} is of stage {stage}, which has no encoder; give one of"
        f" {', '.join(STAGES_WITH_ENCODER)}"
    )


def resolve_layer(layer: int | None, depth: int) -> int | None:
    """Return the number of blocks, counted from the front; ValueError outside of depth.

    None stays: all blocks, and the encoder's norm.
    """
    if layer is None:
        return None
    # Python's callers may give anything
    is_number = isinstance(layer, Integral) and not isinstance(layer, bool)
    if not is_number or not -depth <= layer <= depth:
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
