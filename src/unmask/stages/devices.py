"""How many processes a run asks for, and whether its batches split among them."""

from typing import Any

from unmask.config.checks import ALONE, ConfigError
from unmask.config.recipes import kept_together, repeats_of
from unmask.config.schema import TRAINED, Trainer
from unmask.distributed.ranks import rank_info
from unmask.stages.plan import Plan
from unmask.stages.sizes import batch_of


def devices(trainer: Trainer) -> int:
    """How many processes work on each machine. Raises ConfigError where nobody says and there is no GPU."""
    started = rank_info()
    if trainer.devices is not None:
        return trainer.devices
    if started and started.local_size > 1:
        return started.local_size
    import torch

    if trainer.accelerator == "cpu" or not torch.cuda.is_available():
        raise ConfigError(
            "trainer.devices = null: all GPUs, and there is none here; say how many:"
            " trainer.devices=2"
        )
    return torch.cuda.device_count()


def processes(plan: Plan) -> int:
    """How many work on the run, on all machines.

    Raises ConfigError where a batch does not split evenly among them, other numbers of them were started, or one is to
    share with itself.
    """
    trainer, started = plan.config.trainer, rank_info()
    each = devices(trainer)
    total = each * trainer.nodes
    if started and started.size not in (total, trainer.nodes):
        raise ConfigError(
            f"{started.size} processes were started for trainer.devices={each} on"
            f" trainer.nodes={trainer.nodes}; start {total}, one a device, or"
            f" {trainer.nodes}, one a machine, or set both to what there is"
        )
    if started is None and trainer.nodes > 1:
        raise ConfigError(
            f"trainer.nodes = {trainer.nodes}: start this command on each machine, once"
            " a machine or once a device (srun, torchrun), or sweep with"
            " hydra/launcher=submitit_slurm"
        )
    refuse_uneven(plan, total)
    return total


def refuse_uneven(plan: Plan, total: int) -> None:
    """Raises ConfigError where a batch does not split evenly among so many processes."""
    if plan.config.trainer.sharded and total == 1:
        raise ConfigError(ALONE)
    faults = [
        fault
        for kind in plan.config.worked_stages
        if kind in TRAINED
        for fault in _uneven(plan, kind, total)
    ]
    if faults:
        raise ConfigError("\n".join(faults))


def _uneven(plan: Plan, kind: str, total: int) -> list[str]:
    recipe: Any = getattr(plan.config, kind)
    images = plan.training_images
    batch = batch_of(plan.config, kind, images)
    repeats = repeats_of(plan.config, kind)
    unit = kept_together(recipe, batch, repeats)
    shared = total * unit
    if total == 1 or batch % shared == 0:
        return []
    near = [
        size
        for size in (batch // shared * shared, -(-batch // shared) * shared)
        if 0 < size <= images * repeats
    ]
    why = "stay together" if repeats > 1 else "are mixed with each other"
    parts = f" in parts of {unit} images that {why}" if unit > 1 else ""
    return [
        f"{kind}.batch_size = {batch}: does not split evenly on {total}"
        f" processes{parts}; near: {near}"
    ]
