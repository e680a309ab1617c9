"""Whether the disk of the ledger can take the checkpoints that runs will write."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unmask.config.checks import ConfigError
from unmask.config.model_checks import count_weights
from unmask.config.recipes import ENCODER_STAGES
from unmask.config.schema import Config
from unmask.stages.drift import kept_results
from unmask.stages.fingerprint import StageSpec
from unmask.stages.ledger import StageFolder
from unmask.stages.plan import Plan

FLOAT_BYTES = 4
# moments that an optimiser keeps of each weight
MOMENTS = {"adamw": 2, "lars": 1}
GB = 1e9


def refuse_small_disk(plans: Iterable[Plan]) -> None:
    """Raise ConfigError where the disk is too small for what all plans will write.

    Weight matrices alone are counted: the files are larger than this, never smaller.
    """
    plans = list(plans)
    if not plans:
        return
    # cells share stages
    unfinished: dict[str, tuple[StageSpec, Config]] = {}
    for plan in plans:
        for spec, result in kept_results(plan).items():
            if result is None:
                unfinished[spec.fingerprint] = spec, plan.config
    stays = peak = 0.0
    for spec, config in unfinished.values():
        full, best = _file_bytes(config, spec.kind)
        written = _written_bytes(StageFolder(config.runs_dir, spec))
        # one more than are kept, before the oldest is removed
        while_training = (config.checkpoint.keep + 1) * full + best
        peak = max(peak, stays + while_training - written)
        stays += full + best - written
    runs_dir = plans[0].config.runs_dir
    free = shutil.disk_usage(_existing(Path(runs_dir))).free
    if peak > free:
        kinds = ", ".join(dict.fromkeys(spec.kind for spec, _ in unfinished.values()))
        raise ConfigError(
            f"runs_dir = {runs_dir}: its disk has {free / GB:.3g} GB free, and the"
            f" checkpoints of {kinds} take {peak / GB:.3g} GB or more; free some space,"
            " set checkpoint.keep=1 checkpoint.best=false, or choose another disk:"
            " runs_dir=/path/to/another/disk"
        )


def _file_bytes(config: Config, kind: str) -> tuple[float, float]:
    """Return the bytes of a checkpoint to go on from, and of the best weights."""
    if kind not in ENCODER_STAGES:
        # of heads and small targets: next to nothing
        return 0.0, 0.0
    recipe: Any = getattr(config, kind)
    weights = trained = FLOAT_BYTES * count_weights(config, with_decoder=False)
    if kind == "pretrain":
        weights = trained = FLOAT_BYTES * count_weights(config, with_decoder=True)
    if blocks := getattr(recipe, "blocks", None):
        trained = weights * min(1.0, blocks / config.model.depth)
    if getattr(recipe, "ema", None):
        weights *= 2
    full = weights + MOMENTS[recipe.optimizer] * trained
    return full, weights if config.checkpoint.best else 0.0


def _written_bytes(folder: StageFolder) -> int:
    """Return the bytes of the checkpoints that an interrupted stage has left."""
    return sum(path.stat().st_size for path in folder.checkpoints.glob("*.ckpt"))


def _existing(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())
