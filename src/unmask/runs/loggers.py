"""Mirrors of the journal: W&B (offline unless asked) and TensorBoard. metrics.csv is always written."""

from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from unmask.runs.fingerprint import StageSpec
from unmask.runs.schema import Config


def build_loggers(config: Config, spec: StageSpec, folder: Path) -> list[Logger] | bool:
    """The chosen loggers; W&B runs are named and grouped by fingerprint, one for each time a stage is worked on."""
    chosen: list[Logger] = []
    if config.logger.wandb:
        import wandb

        settings = wandb.Settings(init_timeout=30, finish_timeout=60, console="off")
        wandb_config = config.logger.wandb
        logger = WandbLogger(
            name=f"{spec.kind}-{spec.fingerprint}", project=wandb_config.project,
            entity=wandb_config.entity, offline=wandb_config.mode == "offline", save_dir=str(folder),
            group=spec.parent.fingerprint if spec.parent else spec.fingerprint, config=config.plain(),
            settings=settings,
        )  # fmt: skip
        chosen.append(logger)
    if config.logger.tensorboard:
        chosen.append(TensorBoardLogger(folder, name=config.logger.tensorboard.name, version=""))
    return chosen or False


def close_loggers(config: Config) -> None:
    """End the stage's W&B run: the next stage would log into it."""
    if config.logger.wandb:
        import wandb

        wandb.finish()
