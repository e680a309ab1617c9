"""Mirrors of the journal: W&B (offline unless asked) and TensorBoard. metrics.csv is always written."""

import warnings
from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from unmask.runs.fingerprint import StageSpec
from unmask.runs.schema import Config, Wandb


def build_loggers(config: Config, spec: StageSpec, folder: Path) -> list[Logger] | bool:
    """The chosen loggers; W&B runs are named and grouped by fingerprint, one for each time a stage is worked on."""
    chosen: list[Logger] = []
    if config.logger.wandb:
        chosen.append(_wandb(config, config.logger.wandb, spec, folder))
    if config.logger.tensorboard:
        chosen.append(TensorBoardLogger(folder, name=config.logger.tensorboard.name, version=""))
    return chosen or False


def _wandb(config: Config, chosen: Wandb, spec: StageSpec, folder: Path) -> WandbLogger:
    """An online run, or an offline one where W&B cannot be reached: a dashboard is no reason to lose a training."""
    import wandb

    def logger(offline: bool) -> WandbLogger:
        return WandbLogger(
            name=f"{spec.kind}-{spec.fingerprint}", project=chosen.project, entity=chosen.entity, offline=offline,
            save_dir=str(folder), group=spec.parent.fingerprint if spec.parent else spec.fingerprint,
            config=config.plain(), settings=wandb.Settings(init_timeout=30, finish_timeout=60, console="off"),
        )  # fmt: skip

    online = logger(offline=chosen.mode == "offline")
    try:
        _ = online.experiment  # connects now, not in the middle of the first step
    except Exception as error:  # wandb raises its own, requests' and its service's errors
        if chosen.mode == "offline":
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        warnings.warn(
            f"W&B cannot be reached ({reason}); the run is logged offline in {folder}/wandb: send it later with "
            f"`wandb sync {folder}/wandb/offline-run-*`",
            stacklevel=2,
        )
        wandb.teardown()
        return logger(offline=True)
    return online


def close_loggers(config: Config) -> None:
    """End the stage's W&B run: the next stage would log into it."""
    if config.logger.wandb:
        import wandb

        wandb.finish()
