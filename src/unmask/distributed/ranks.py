"""Which rank this process is among those that train one model."""

import os
import random
from functools import cache
from typing import Any, NamedTuple

from unmask.config.checks import ConfigError

# below the ports that systems give to outgoing connections
PORT_RANGE = 20_000, 32_767


class RankInfo(NamedTuple):
    """A process among those of one run: all of them, and those on its machine."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int

    @property
    def node_rank(self) -> int:
        return self.rank // self.local_world_size


@cache
def rank_info() -> RankInfo | None:
    """Return this process's rank, or None where it is the only process of its run.

    It is read from torchrun's variables, which our launcher sets too; under srun or
    submitit it sets them itself. Raises ConfigError for unequally many tasks a machine.
    """
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= os.environ.keys():
        os.environ.update(_variables_of_job())
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size == 1:
        return None
    return RankInfo(
        int(os.environ["RANK"]),
        world_size,
        int(os.environ["LOCAL_RANK"]),
        int(os.environ.get("LOCAL_WORLD_SIZE", world_size)),
    )


def _variables_of_job() -> dict[str, str]:
    """Return torchrun's variables for a task that srun or submitit has started.

    Empty for a process that is alone. Ranks are counted machine by machine, whatever
    order --distribution gave the tasks.
    """
    job = _job_environment()
    if job is None or job.num_tasks == 1:
        return {}
    local_world_size, remainder = divmod(job.num_tasks, job.num_nodes)
    # "8(x2)" where all machines have equally many tasks, "8,4" where they do not
    if remainder or "," in os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""):
        raise ConfigError(
            f"{job.num_tasks} tasks on {job.num_nodes} machines are not equally many on"
            " each; start one a machine, or one a device: srun --ntasks-per-node=..."
        )
    # the port must be the same in all tasks, but two steps of a job may share a machine
    step = f"{job.job_id}.{os.environ.get('SLURM_STEP_ID', '')}"
    return {
        "RANK": str(job.node * local_world_size + job.local_rank),
        "WORLD_SIZE": str(job.num_tasks),
        "LOCAL_RANK": str(job.local_rank),
        "LOCAL_WORLD_SIZE": str(local_world_size),
        "NODE_RANK": str(job.node),
        "MASTER_ADDR": job.hostnames[0],
        "MASTER_PORT": str(random.Random(step).randint(*PORT_RANGE)),
    }


def _job_environment() -> Any:
    """Return submitit's view of its local job or of a SLURM step; None outside of both.

    submitit's own SLURM jobs are steps as well as those of srun.
    """
    if os.environ.get("SUBMITIT_EXECUTOR") == "local":
        from submitit import JobEnvironment

        return JobEnvironment()
    # a batch script itself runs in no step
    if "SLURM_STEP_NUM_TASKS" not in os.environ:
        return None
    from submitit.slurm.slurm import SlurmJobEnvironment

    class StepEnvironment(SlurmJobEnvironment):
        """Read the step's variables: it may have fewer tasks than the job."""

        _env = SlurmJobEnvironment._env | {
            "num_tasks": "SLURM_STEP_NUM_TASKS",
            "num_nodes": "SLURM_STEP_NUM_NODES",
            "nodes": "SLURM_STEP_NODELIST",
        }

    num_tasks = int(os.environ["SLURM_STEP_NUM_TASKS"])
    return StepEnvironment() if num_tasks > 1 else None
