"""A process reads its rank from the variables of srun, submitit or torchrun."""

import os
from collections.abc import Iterator
from unittest.mock import patch

import pytest

from small_runs import plan_for
from unmask.config.checks import ConfigError
from unmask.distributed.ranks import PORT_RANGE, RankInfo, rank_info
from unmask.stages.devices import total_processes

JOB = {
    "SLURM_JOB_ID": "77",
    "SLURM_JOB_NUM_NODES": "4",
    "SLURM_JOB_NODELIST": "gpu[03-05],fat1",
    "SLURM_NTASKS": "9",
    "SLURM_STEP_ID": "0",
}


def step_environment(
    nodes: int, each: int, rank: int, cyclic: bool = False, **more: str
) -> dict[str, str]:
    """Return srun's variables for a task.

    cyclic: tasks go to the machines in turn, not to one machine after the other.
    """
    node, local = (rank % nodes, rank // nodes) if cyclic else divmod(rank, each)
    return JOB | {
        "SLURM_STEP_NUM_TASKS": str(nodes * each),
        "SLURM_STEP_NUM_NODES": str(nodes),
        "SLURM_STEP_NODELIST": f"gpu[04-{3 + nodes:02}]",
        "SLURM_STEP_TASKS_PER_NODE": f"{each}(x{nodes})",
        "SLURM_PROCID": str(rank),
        "SLURM_NODEID": str(node),
        "SLURM_LOCALID": str(local),
        **more,
    }


def rank_and_environment(
    environment: dict[str, str],
) -> tuple[RankInfo | None, dict[str, str]]:
    """Return rank_info() in that environment, and the environment after it."""
    rank_info.cache_clear()
    with patch.dict(os.environ, environment, clear=True):
        return rank_info(), dict(os.environ)


@pytest.fixture(autouse=True)
def _clear_cache() -> Iterator[None]:
    yield
    rank_info.cache_clear()


@pytest.mark.parametrize("cyclic", [False, True])
def test_tasks_of_a_step_are_counted_machine_by_machine_and_meet_at_one_address(
    cyclic: bool,
) -> None:
    tasks = [
        rank_and_environment(step_environment(2, 3, rank, cyclic)) for rank in range(6)
    ]
    ranks = [rank for rank, _ in tasks if rank]
    assert sorted(ranks) == [RankInfo(r, 6, r % 3, 3) for r in range(6)]
    assert all(rank.rank == rank.node_rank * 3 + rank.local_rank for rank in ranks)
    (address,) = {
        (variables["MASTER_ADDR"], variables["MASTER_PORT"]) for _, variables in tasks
    }
    assert address[0] == "gpu04", "the step's first machine, not the job's"
    assert PORT_RANGE[0] <= int(address[1]) <= PORT_RANGE[1]
    assert [variables["NODE_RANK"] for _, variables in tasks] == (
        list("010101") if cyclic else list("000111")
    )
    other = rank_and_environment(step_environment(2, 3, 0, SLURM_STEP_ID="1"))[1]
    assert other["MASTER_PORT"] != address[1], "two steps of a job may share a machine"


def test_tasks_of_one_array_job_meet_at_another_port_than_its_siblings() -> None:
    array = {"SLURM_ARRAY_JOB_ID": "70"}
    ports = {
        rank_and_environment(
            step_environment(2, 1, rank, SLURM_ARRAY_TASK_ID=task, **array)
        )[1]["MASTER_PORT"]
        for task in "12"
        for rank in range(2)
    }
    assert len(ports) == 2


def test_a_job_of_submitit_is_a_step_of_slurm() -> None:
    submitits = {"SUBMITIT_EXECUTOR": "slurm", "SUBMITIT_FOLDER": "/x"}
    variables = step_environment(2, 1, 1, **submitits)
    assert rank_and_environment(variables)[0] == RankInfo(1, 2, 0, 1)


def test_a_local_job_of_submitit_counts_its_tasks() -> None:
    job = {
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_LOCAL_JOB_ID": "5",
        "SUBMITIT_LOCAL_NTASKS": "2",
        "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
        "SUBMITIT_LOCAL_NODEID": "0",
    }
    for rank in range(2):
        task = {
            "SUBMITIT_LOCAL_GLOBALID": str(rank),
            "SUBMITIT_LOCAL_LOCALID": str(rank),
        }
        assert rank_and_environment(job | task)[0] == RankInfo(rank, 2, rank, 2)
    assert rank_and_environment(job | {"SUBMITIT_LOCAL_NTASKS": "1"})[0] is None


def test_a_batch_script_and_a_step_of_one_task_have_no_rank() -> None:
    assert rank_and_environment(JOB)[0] is None
    assert rank_and_environment(step_environment(1, 1, 0))[0] is None


def test_ranks_that_are_set_already_are_used_as_they_are() -> None:
    """torchrun sets them, and so does our launcher, also under srun."""
    torchruns = {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_PORT": "29500",
    }
    rank, environment = rank_and_environment(step_environment(2, 1, 1) | torchruns)
    assert rank == RankInfo(5, 8, 1, 4)
    assert environment["MASTER_PORT"] == "29500"


@pytest.mark.parametrize(
    ("environment", "overrides", "message"),
    [
        (
            step_environment(2, 3, 0),
            "trainer.devices=2 trainer.nodes=2",
            (
                "6 processes were started for trainer.devices=2 on trainer.nodes=2;"
                " start 4, one a device, or 2, one a machine"
            ),
        ),
        (
            step_environment(2, 2, 0, SLURM_STEP_TASKS_PER_NODE="3,1"),
            "trainer.devices=2 trainer.nodes=2",
            "4 tasks on 2 machines are not equally many on each",
        ),
        (
            step_environment(2, 1, 0, SLURM_STEP_NUM_TASKS="3"),
            "trainer.devices=2 trainer.nodes=2",
            "3 tasks on 2 machines are not equally many on each",
        ),
        (
            {},
            "trainer.devices=2 trainer.nodes=2",
            "trainer.nodes = 2: start this command on each machine",
        ),
    ],
)
def test_another_number_of_tasks_is_refused_in_one_line(
    environment: dict[str, str], overrides: str, message: str
) -> None:
    plan = plan_for(*overrides.split())
    rank_info.cache_clear()
    with (
        patch.dict(os.environ, environment, clear=True),
        pytest.raises(ConfigError) as error,
    ):
        total_processes(plan)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_one_task_a_machine_or_one_a_device_is_accepted() -> None:
    plan = plan_for("trainer.devices=2", "trainer.nodes=2")
    for each in (1, 2):
        rank_info.cache_clear()
        with patch.dict(os.environ, step_environment(2, each, 0), clear=True):
            assert total_processes(plan) == 4


def test_trainer_slurm_takes_the_machines_of_the_step() -> None:
    with patch.dict(os.environ, step_environment(2, 1, 0)):
        trainer = plan_for("trainer=slurm", "trainer.devices=2").config.trainer
    assert (trainer.nodes, trainer.devices, trainer.precision) == (2, 2, "bf16-mixed")
