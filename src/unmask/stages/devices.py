"""How many processes a run needs, and whether its batches split evenly among them."""

from typing import Any

from unmask.config.augmentation import indivisible_group_size, stage_repeats
from unmask.config.checks import ConfigError, raise_errors
from unmask.config.recipes import TRAINED_STAGES, makes_steps
from unmask.config.stage_checks import SHARDED_ON_ONE_DEVICE, check_batch_norm
from unmask.config.trainer import Trainer
from unmask.distributed.ranks import rank_info
from unmask.stages.plan import Plan
from unmask.stages.sizes import stage_batch_size


def devices_per_node(trainer: Trainer) -> int:
    """Return how many processes train on each machine.

    Raises ConfigError where nothing says so and there is no GPU to count.
    """
    if trainer.devices is not None:
        return trainer.devices
    started = rank_info()
    if started and started.local_world_size > 1:
        return started.local_world_size
    # importing torch takes seconds: only where it must count the GPUs
    import torch

    if trainer.accelerator == "cpu" or not torch.cuda.is_available():
        raise ConfigError(
            "trainer.devices = null: all GPUs, and there is none here; say how many"
            f" processes of trainer.accelerator={trainer.accelerator} there should be:"
            " trainer.devices=2"
        )
    return torch.cuda.device_count()


def total_processes(plan: Plan) -> int:
    """Return how many processes train on all machines together.

    Raises ConfigError where another number of processes was started, or a batch does
    not split evenly among them.
    """
    trainer, started = plan.config.trainer, rank_info()
    per_node = devices_per_node(trainer)
    total = per_node * trainer.nodes
    # one task a device, or one a machine, which then starts the others
    if started and started.world_size not in (total, trainer.nodes):
        raise ConfigError(
            f"{started.world_size} processes were started for"
            f" trainer.devices={per_node} on trainer.nodes={trainer.nodes}; start"
            f" {total}, one a device, or {trainer.nodes}, one a machine, or set both"
            " keys to what was started"
        )
    if started is None and trainer.nodes > 1:
        raise ConfigError(
            f"trainer.nodes = {trainer.nodes}: start this command on each machine, once"
            " a machine or once a device (srun, torchrun), or sweep with"
            " hydra/launcher=submitit_slurm"
        )
    refuse_uneven_batches(plan, total)
    return total


def refuse_uneven_batches(plan: Plan, num_processes: int) -> None:
    """Raise ConfigError where a batch does not split evenly among the processes."""
    if plan.config.trainer.sharded and num_processes == 1:
        raise_errors([SHARDED_ON_ONE_DEVICE])
    raise_errors(
        error
        for kind in plan.config.used_stages
        if kind in TRAINED_STAGES and makes_steps(plan.config, kind)
        for error in _check_batch(plan, kind, num_processes)
    )


def _check_batch(plan: Plan, kind: str, num_processes: int) -> list[str]:
    recipe: Any = getattr(plan.config, kind)
    images = plan.num_training_images
    batch = stage_batch_size(plan.config, kind, images)
    repeats = stage_repeats(plan.config, kind)
    group = indivisible_group_size(recipe, batch, repeats)
    # each process takes the same number of whole groups
    unit = num_processes * group
    if num_processes == 1 or batch % unit == 0:
        return check_batch_norm(kind, batch, num_processes)
    nearest = [
        size
        for size in (batch // unit * unit, -(-batch // unit) * unit)
        if 0 < size <= images * repeats
    ]
    reason = "stay together" if repeats > 1 else "are mixed with each other"
    parts = f" in parts of {group} images that {reason}" if group > 1 else ""
    return [
        f"{kind}.batch_size = {batch}: does not split evenly on {num_processes}"
        f" processes{parts}; near: {nearest}"
    ]
