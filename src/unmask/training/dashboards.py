"""The dashboards of one stage, as the config's `logger` chooses them."""

import torch

from unmask.dashboards.orders import Job, WandbJob
from unmask.dashboards.process import Dashboards
from unmask.dashboards.wandb_run import CONNECT_SECONDS
from unmask.distributed import collectives
from unmask.training.run import Stage

# how long a disk may take for a dashboard's last rows
FLUSH_SECONDS = 30.0


def choose_dashboards(stage: Stage) -> Dashboards:
    """Return the chosen dashboards, with the seconds they have to close.

    Rank zero alone has any. They begin with the metrics log, or with the result of a
    stage that has no log.
    """
    logger = stage.config.logger
    is_shown = logger.wandb or logger.tensorboard or logger.trackio
    if not collectives.is_rank_zero() or not is_shown:
        return Dashboards()
    seconds = FLUSH_SECONDS
    wandb = None
    if logger.wandb:
        seconds += CONNECT_SECONDS + logger.wandb.finish_seconds
        wandb = WandbJob(
            logger.wandb.project,
            logger.wandb.entity,
            logger.wandb.mode == "online",
            logger.wandb.finish_seconds,
        )
    job = Job(
        str(stage.folder.path),
        wandb,
        logger.tensorboard.name if logger.tensorboard else None,
        logger.trackio.project if logger.trackio else None,
        device=device_name(stage),
    )
    return Dashboards(
        job, seconds, lambda line: stage.console.print(line, soft_wrap=True)
    )


def device_name(stage: Stage) -> str | None:
    """Return the maker's name of the GPU that trains; None on a CPU."""
    if stage.config.trainer.accelerator == "cpu" or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_name()
