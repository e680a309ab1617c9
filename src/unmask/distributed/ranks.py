"""Which of several processes this one is, and how many a run asks for."""

import os
import random
from functools import cache
from typing import Any, NamedTuple

from unmask.config.checks import ConfigError

PORTS = 20_000, 32_767  # below those that systems give to outgoing connections


class RankInfo(NamedTuple):
    """A process among those that work on one run: its place among all, and on its machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int

    @property
    def machine(self) -> int:
        return self.rank // self.local_size


@cache
def rank_info() -> RankInfo | None:
    """None where this process was started by itself; else its place, as Conductor, torchrun, srun or submitit say."""
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= os.environ.keys():
        os.environ.update(_of_job())
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        return None
    local = int(os.environ["LOCAL_RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", size))
    return RankInfo(int(os.environ["RANK"]), size, *local)


def _of_job() -> dict[str, str]:
    """What srun or submitit say of this process, in torchrun's words; nothing outside of a step of several tasks.

    Ranks are counted machine by machine, whatever order --distribution gave the tasks.
    """
    job = _job()
    if job is None or job.num_tasks == 1:
        return {}
    each, left = divmod(job.num_tasks, job.num_nodes)
    # 8(x2) where they are as many everywhere
    if left or "," in os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""):
        raise ConfigError(
            f"{job.num_tasks} tasks on {job.num_nodes} machines are not equally many on"
            " each; start one a machine, or one a device: srun --ntasks-per-node=..."
        )
    # two steps of a job may share a machine
    step = f"{job.job_id}.{os.environ.get('SLURM_STEP_ID', '')}"
    return {
        "RANK": str(job.node * each + job.local_rank),
        "WORLD_SIZE": str(job.num_tasks),
        "LOCAL_RANK": str(job.local_rank),
        "LOCAL_WORLD_SIZE": str(each),
        "NODE_RANK": str(job.node),
        "MASTER_ADDR": job.hostnames[0],
        "MASTER_PORT": str(random.Random(step).randint(*PORTS)),
    }


def _job() -> Any:
    """submitit's words on its local job, or on a step of SLURM's, in which its jobs run as well as those of srun."""
    if os.environ.get("SUBMITIT_EXECUTOR") == "local":
        from submitit import JobEnvironment

        return JobEnvironment()
    # a batch script's own process is in no step
    if "SLURM_STEP_NUM_TASKS" not in os.environ:
        return None
    from submitit.slurm.slurm import SlurmJobEnvironment

    class Step(SlurmJobEnvironment):
        """A step may have fewer machines and tasks than its job."""

        _env = SlurmJobEnvironment._env | {
            "num_tasks": "SLURM_STEP_NUM_TASKS",
            "num_nodes": "SLURM_STEP_NUM_NODES",
            "nodes": "SLURM_STEP_NODELIST",
        }

    return Step() if int(os.environ["SLURM_STEP_NUM_TASKS"]) > 1 else None
