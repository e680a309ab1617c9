"""Signals go on to what a process has started, whenever it was started."""

import os
import signal
import subprocess

import pytest

from unmask.distributed import processes
from unmask.distributed.processes import SIGNALS, Forwarding, received_signals


class Started(subprocess.Popen):
    """A process that notes what it is sent."""

    def __init__(self) -> None:
        self.sent: list[int] = []

    def poll(self) -> None:
        return None

    def send_signal(self, number: int) -> None:
        self.sent.append(number)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen]:
    received_signals.clear()
    return []


def test_a_signal_that_came_while_one_was_being_started_reaches_it(
    started: list,
) -> None:
    with Forwarding(SIGNALS, lambda: started) as signals:
        started.append(Started())
        signals.catch_up(started[0])
        os.kill(os.getpid(), signal.SIGUSR1)
        late = Started()
        signals.catch_up(late)
    assert [started[0].sent, late.sent] == [[signal.SIGUSR1], [signal.SIGUSR1]]


@pytest.mark.parametrize(
    ("number", "third"),
    [
        (signal.SIGINT, signal.SIGKILL),
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGUSR1, signal.SIGUSR1),
    ],
)
def test_people_end_at_once_by_a_third_ctrl_c_and_schedulers_never_do(
    number: int, third: int, started: list
) -> None:
    """SLURM sends a step's signals to each of its processes, and those they started hear of them twice."""
    with Forwarding(SIGNALS, lambda: started):
        started.append(Started())
        for _ in range(3):
            os.kill(os.getpid(), number)
    assert started[0].sent == [number, number, third]


def test_processes_on_one_machine_share_its_cores_and_a_bound_task_has_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "available_cores", lambda: 32)
    assert processes.cores_per_rank() == 32
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert processes.cores_per_rank() == 4
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "32")
    assert processes.cores_per_rank() == 32
