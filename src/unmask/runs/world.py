"""Which of several processes this one is, and how many a run asks for."""

import os
import random
from functools import cache
from typing import Any, NamedTuple

from unmask.runs.checks import ALONE, ConfigError
from unmask.runs.plan import Plan
from unmask.runs.quantities import batch_of
from unmask.runs.recipes import kept_together, repeats_of
from unmask.runs.schema import TRAINED, Trainer

PORTS = 20_000, 32_767  # below those that systems give to outgoing connections


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
    """None where this process was started by itself; else its place, as Conductor, torchrun, srun or submitit say."""
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= os.environ.keys():
        os.environ.update(_of_job())
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        return None
    local = int(os.environ["LOCAL_RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", size))
    return World(int(os.environ["RANK"]), size, *local)


def _of_job() -> dict[str, str]:
    """What srun or submitit say of this process, in torchrun's words; nothing outside of a step of several tasks.

    Ranks are counted machine by machine, whatever order --distribution gave the tasks.
    """
    job = _job()
    if job is None or job.num_tasks == 1:
        return {}
    each, left = divmod(job.num_tasks, job.num_nodes)
    if left or "," in os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""):  # 8(x2) where they are as many everywhere
        raise ConfigError(
            f"{job.num_tasks} tasks on {job.num_nodes} machines are not equally many on each; start one a machine, or "
            f"one a device: srun --ntasks-per-node=..."
        )
    step = f"{job.job_id}.{os.environ.get('SLURM_STEP_ID', '')}"  # two steps of a job may share a machine
    return {
        "RANK": str(job.node * each + job.local_rank), "WORLD_SIZE": str(job.num_tasks),
        "LOCAL_RANK": str(job.local_rank), "LOCAL_WORLD_SIZE": str(each), "NODE_RANK": str(job.node),
        "MASTER_ADDR": job.hostnames[0], "MASTER_PORT": str(random.Random(step).randint(*PORTS)),
    }  # fmt: skip


def _job() -> Any:
    """submitit's words on its local job, or on a step of SLURM's, in which its jobs run as well as those of srun."""
    if os.environ.get("SUBMITIT_EXECUTOR") == "local":
        from submitit import JobEnvironment

        return JobEnvironment()
    if "SLURM_STEP_NUM_TASKS" not in os.environ:  # a batch script's own process is in no step
        return None
    from submitit.slurm.slurm import SlurmJobEnvironment

    class Step(SlurmJobEnvironment):
        """A step may have fewer machines and tasks than its job."""

        _env = SlurmJobEnvironment._env | {
            "num_tasks": "SLURM_STEP_NUM_TASKS", "num_nodes": "SLURM_STEP_NUM_NODES", "nodes": "SLURM_STEP_NODELIST",
        }  # fmt: skip

    return Step() if int(os.environ["SLURM_STEP_NUM_TASKS"]) > 1 else None


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
    if started is None and trainer.nodes > 1:
        raise ConfigError(
            f"trainer.nodes = {trainer.nodes}: start this command on each machine, once a machine or once a device "
            f"(srun, torchrun), or sweep with hydra/launcher=submitit_slurm"
        )
    refuse_uneven(plan, total)
    return total


def refuse_uneven(plan: Plan, total: int) -> None:
    """Raises ConfigError where a batch does not split evenly among so many processes."""
    if plan.config.trainer.sharded and total == 1:
        raise ConfigError(ALONE)
    faults = [fault for kind in plan.config.worked_stages if kind in TRAINED for fault in _uneven(plan, kind, total)]
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
    near = [size for size in (batch // shared * shared, -(-batch // shared) * shared) if 0 < size <= images * repeats]
    why = "stay together" if repeats > 1 else "are mixed with each other"
    parts = f" in parts of {unit} images that {why}" if unit > 1 else ""
    return [f"{kind}.batch_size = {batch}: does not split evenly on {total} processes{parts}; near: {near}"]
