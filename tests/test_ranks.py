"""Where srun, submitit and torchrun put a process, as it hears of it in its environment."""

import os
from collections.abc import Iterator
from unittest.mock import patch

import pytest

from small_runs import plan_for
from unmask.config.checks import ConfigError
from unmask.distributed.ranks import PORTS, RankInfo, rank_info
from unmask.stages.devices import processes

JOB = {
    "SLURM_JOB_ID": "77",
    "SLURM_JOB_NUM_NODES": "4",
    "SLURM_JOB_NODELIST": "gpu[03-05],fat1",
    "SLURM_NTASKS": "9",
    "SLURM_STEP_ID": "0",
}


def step(
    nodes: int, each: int, rank: int, cyclic: bool = False, **more: str
) -> dict[str, str]:
    """What srun tells the task of that number; `cyclic` deals tasks out to the machines in turn."""
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


def seen(environment: dict[str, str]) -> tuple[RankInfo | None, dict[str, str]]:
    """What a process with that environment takes itself for, and what it tells torch."""
    rank_info.cache_clear()
    with patch.dict(os.environ, environment, clear=True):
        return rank_info(), dict(os.environ)


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    rank_info.cache_clear()


@pytest.mark.parametrize("cyclic", [False, True])
def test_tasks_of_a_step_are_counted_machine_by_machine_and_meet_at_one_address(
    cyclic: bool,
) -> None:
    found = [seen(step(2, 3, rank, cyclic)) for rank in range(6)]
    places = [place for place, _ in found if place]
    assert sorted(places) == [RankInfo(r, 6, r % 3, 3) for r in range(6)]
    assert all(place.rank == place.machine * 3 + place.local_rank for place in places)
    (address,) = {(told["MASTER_ADDR"], told["MASTER_PORT"]) for _, told in found}
    assert address[0] == "gpu04", "the step's first machine, not the job's"
    assert PORTS[0] <= int(address[1]) <= PORTS[1]
    assert [told["NODE_RANK"] for _, told in found] == (
        list("010101") if cyclic else list("000111")
    )
    other = seen(step(2, 3, 0, SLURM_STEP_ID="1"))[1]
    assert other["MASTER_PORT"] != address[1], "two steps of a job may share a machine"


def test_tasks_of_one_array_job_meet_at_another_port_than_its_siblings() -> None:
    array = {"SLURM_ARRAY_JOB_ID": "70"}
    ports = {
        seen(step(2, 1, rank, SLURM_ARRAY_TASK_ID=task, **array))[1]["MASTER_PORT"]
        for task in "12"
        for rank in range(2)
    }
    assert len(ports) == 2


def test_a_job_of_submitits_is_a_step_of_slurms() -> None:
    assert seen(step(2, 1, 1, SUBMITIT_EXECUTOR="slurm", SUBMITIT_FOLDER="/x"))[
        0
    ] == RankInfo(1, 2, 0, 1)


def test_a_local_job_of_submitits_counts_its_tasks() -> None:
    told = {
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_LOCAL_JOB_ID": "5",
        "SUBMITIT_LOCAL_NTASKS": "2",
        "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
        "SUBMITIT_LOCAL_NODEID": "0",
    }
    for rank in range(2):
        own = {
            "SUBMITIT_LOCAL_GLOBALID": str(rank),
            "SUBMITIT_LOCAL_LOCALID": str(rank),
        }
        assert seen(told | own)[0] == RankInfo(rank, 2, rank, 2)
    assert seen(told | {"SUBMITIT_LOCAL_NTASKS": "1"})[0] is None


def test_a_batch_script_and_a_step_of_one_task_are_alone() -> None:
    assert seen(JOB)[0] is None
    assert seen(step(1, 1, 0))[0] is None


def test_places_that_are_told_already_are_used_as_they_are() -> None:
    """torchrun's, and those that a process which starts others under srun tells them."""
    told = {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_PORT": "29500",
    }
    place, environment = seen(step(2, 1, 1) | told)
    assert place == RankInfo(5, 8, 1, 4)
    assert environment["MASTER_PORT"] == "29500"


@pytest.mark.parametrize(
    ("environment", "overrides", "said"),
    [
        (
            step(2, 3, 0),
            "trainer.devices=2 trainer.nodes=2",
            (
                "6 processes were started for trainer.devices=2 on trainer.nodes=2;"
                " start 4, one a device, or 2, one a machine"
            ),
        ),
        (
            step(2, 2, 0, SLURM_STEP_TASKS_PER_NODE="3,1"),
            "trainer.devices=2 trainer.nodes=2",
            "4 tasks on 2 machines are not equally many on each",
        ),
        (
            step(2, 1, 0, SLURM_STEP_NUM_TASKS="3"),
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
def test_other_numbers_of_tasks_are_refused_in_a_line(
    environment: dict[str, str], overrides: str, said: str
) -> None:
    plan = plan_for(*overrides.split())
    rank_info.cache_clear()
    with (
        patch.dict(os.environ, environment, clear=True),
        pytest.raises(ConfigError) as error,
    ):
        processes(plan)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_right_numbers_are_taken_one_a_machine_or_one_a_device() -> None:
    plan = plan_for("trainer.devices=2", "trainer.nodes=2")
    for each in (1, 2):
        rank_info.cache_clear()
        with patch.dict(os.environ, step(2, each, 0), clear=True):
            assert processes(plan) == 4


def test_trainer_slurm_takes_the_machines_of_the_step() -> None:
    with patch.dict(os.environ, step(2, 1, 0)):
        trainer = plan_for("trainer=slurm", "trainer.devices=2").config.trainer
    assert (trainer.nodes, trainer.devices, trainer.precision) == (2, 2, "bf16-mixed")
