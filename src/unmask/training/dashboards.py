"""The dashboards of one stage, as the config's `logger` chooses them."""

from pathlib import Path

from unmask.callbacks.dashboards import Dashboard, Dashboards, TensorBoard
from unmask.callbacks.wandb_run import (
    ABORT_SECONDS,
    CONNECT_SECONDS,
    WandbRun,
    WandbRunInfo,
)
from unmask.config.schema import Config
from unmask.stages.fingerprint import StageSpec

# how long a disk may take for TensorBoard's last events
TENSORBOARD_FLUSH_SECONDS = 30.0


def choose_dashboards(config: Config, spec: StageSpec, folder: Path) -> Dashboards:
    """Return the chosen dashboards, each with the seconds it has to close.

    They open once the metrics log begins, on the rank that writes it.
    """
    chosen: list[tuple[Dashboard, float]] = []
    if wandb := config.logger.wandb:
        # a pretraining and the stages that start from it are one group in W&B
        group = spec.parent.fingerprint if spec.parent else spec.fingerprint
        run = WandbRun(
            WandbRunInfo(spec.kind, spec.fingerprint, group, config.to_dict()),
            folder,
            wandb.project,
            wandb.entity,
            wandb.mode == "online",
            wandb.finish_seconds,
        )
        chosen.append((run, CONNECT_SECONDS + wandb.finish_seconds + ABORT_SECONDS))
    if config.logger.tensorboard:
        events = TensorBoard(folder / config.logger.tensorboard.name)
        chosen.append((events, TENSORBOARD_FLUSH_SECONDS))
    return Dashboards(chosen)
