"""Signals are passed on to the processes that one has started, whenever it did."""

import os
import signal
import subprocess
import sys

import pytest

from small_runs import ROOT
from unmask.distributed import processes
from unmask.distributed.processes import ForwardSignals, received_signals


class FakeProcess(subprocess.Popen):
    """A process that notes the signals that it is sent."""

    def __init__(self) -> None:
        self.sent: list[int] = []

    def poll(self) -> None:
        return None

    def send_signal(self, number: int) -> None:
        self.sent.append(number)


@pytest.fixture(autouse=True)
def _no_earlier_signals() -> None:
    received_signals.clear()


def test_a_signal_that_came_while_one_was_being_started_reaches_it() -> None:
    early, late = FakeProcess(), FakeProcess()
    with ForwardSignals() as signals:
        signals.add(early)
        os.kill(os.getpid(), signal.SIGUSR1)
        signals.add(late)
    assert [early.sent, late.sent] == [[signal.SIGUSR1], [signal.SIGUSR1]]


@pytest.mark.parametrize(
    ("number", "third"),
    [
        (signal.SIGINT, signal.SIGKILL),
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGUSR1, signal.SIGUSR1),
    ],
)
def test_a_third_ctrl_c_kills_and_a_schedulers_third_signal_does_not(
    number: int, third: int
) -> None:
    """SLURM signals all processes of a step, so those with a parent get it twice."""
    process = FakeProcess()
    with ForwardSignals() as signals:
        signals.add(process)
        for _ in range(3):
            os.kill(os.getpid(), number)
    assert process.sent == [number, number, third]


@pytest.mark.skipif(sys.platform != "linux", reason="parent-death signals are Linux's")
@pytest.mark.parametrize(
    ("parent_lives", "code"), [(True, 0), (False, -signal.SIGTERM)]
)
def test_a_child_whose_parent_died_before_it_could_ask_leaves(
    parent_lives: bool, code: int
) -> None:
    # tests before this one may have left the signal ignored, which children inherit
    asking = "import signal; signal.signal(signal.SIGTERM, signal.SIG_DFL)"
    asking += "; from unmask.distributed.processes import end_with_parent as e; e()"
    done = subprocess.run(
        [sys.executable, "-c", asking],
        env={
            **os.environ,
            "UNMASK_CHILD": str(os.getpid() if parent_lives else 1),
            "PYTHONPATH": str(ROOT / "src"),
        },
    )
    assert done.returncode == code


def test_processes_on_one_machine_share_its_cores_and_a_bound_task_has_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "available_cores", lambda: 32)
    assert processes.cores_per_rank() == 32
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert processes.cores_per_rank() == 4
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "32")
    assert processes.cores_per_rank() == 32
