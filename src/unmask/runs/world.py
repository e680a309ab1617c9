"""Which of several processes this one is, and how many a run asks for."""

import os
import random
from functools import cache
from typing import Any, NamedTuple

from unmask.runs.checks import ALONE, ConfigError
from unmask.runs.plan import SIZES, Plan
from unmask.runs.quantities import batch_of
from unmask.runs.recipes import kept_together
from unmask.runs.schema import TRAINED, Trainer

PORTS = 20_000, 60_000


class World(NamedTuple):
    """A process among those that work on one run: its place among all, and on its machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int

    @property
    def machine(self) -> int:
        return self.rank // self.local_size


@cache
def world() -> World | None:
    """None where this process was started by itself; else its place, as torchrun, srun, submitit or `conduct` say."""
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= os.environ.keys():
        os.environ.update(_of_job())
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        return None
    local = int(os.environ["LOCAL_RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", size))
    return World(int(os.environ["RANK"]), size, *local)


def _of_job() -> dict[str, str]:
    """What srun or submitit say of this process, in torchrun's words; nothing outside of a step of several tasks."""
    job: Any
    if "SUBMITIT_EXECUTOR" in os.environ:
        from submitit import JobEnvironment

        job = JobEnvironment()
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:  # srun's; a batch script's own process has none
        from submitit.slurm.slurm import SlurmJobEnvironment

        job = SlurmJobEnvironment()
    else:
        return {}
    if job.num_tasks == 1:
        return {}
    port = random.Random(job.job_id).randint(*PORTS)  # all tasks of the job draw the same
    return {
        "RANK": str(job.global_rank), "WORLD_SIZE": str(job.num_tasks), "LOCAL_RANK": str(job.local_rank),
        "LOCAL_WORLD_SIZE": str(job.num_tasks // job.num_nodes), "MASTER_ADDR": job.hostnames[0],
        "MASTER_PORT": str(port),
    }  # fmt: skip


def devices(trainer: Trainer) -> int:
    """How many processes work on each machine. Raises ConfigError where nobody says and there is no GPU."""
    started = world()
    if trainer.devices is not None:
        return trainer.devices
    if started and started.local_size > 1:
        return started.local_size
    import torch

    if trainer.accelerator == "cpu" or not torch.cuda.is_available():
        raise ConfigError("trainer.devices = null: all GPUs, and there is none here; say how many: trainer.devices=2")
    return torch.cuda.device_count()


def processes(plan: Plan) -> int:
    """How many work on the run, on all machines.

    Raises ConfigError where a batch does not split evenly among them, other numbers of them were started, or one is to
    share with itself.
    """
    trainer, started = plan.config.trainer, world()
    each = devices(trainer)
    total = each * trainer.nodes
    if started and started.size not in (total, trainer.nodes):
        raise ConfigError(
            f"{started.size} processes were started for trainer.devices={each} on trainer.nodes={trainer.nodes}; start "
            f"{total}, one a device, or {trainer.nodes}, one a machine, or set both to what there is"
        )
    if trainer.sharded and total == 1:
        raise ConfigError(ALONE)
    faults = [fault for kind in plan.config.worked_stages if kind in TRAINED for fault in _uneven(plan, kind, total)]
    if faults:
        raise ConfigError("\n".join(faults))
    return total


def _uneven(plan: Plan, kind: str, total: int) -> list[str]:
    recipe: Any = getattr(plan.config, kind)
    images = len(plan.listing.train) if plan.listing else sum(SIZES[plan.config.data.source])
    batch = batch_of(recipe, images)
    unit = kept_together(recipe, batch)
    shared = total * unit
    if total == 1 or batch % shared == 0:
        return []
    near = [size for size in (batch // shared * shared, -(-batch // shared) * shared) if 0 < size <= images]
    parts = f" in parts of {unit} images that are mixed with each other" if unit > 1 else ""
    return [f"{kind}.batch_size = {batch}: does not split evenly on {total} processes{parts}; near: {near}"]
