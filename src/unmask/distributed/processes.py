"""Processes that this project starts: how they begin, what they are told, how they are asked to leave."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

PREEMPTED = 75  # exit code: run me again
# exit code of one of several processes: start all of us again, with smaller
# micro-batches
MEMORY_FULL = 76
# what SLURM and submitit send ahead of a limit; people send the others
PREEMPTING = (signal.SIGUSR1, signal.SIGUSR2)
# that ask a training to save and leave
SIGNALS = (signal.SIGTERM, signal.SIGINT, *PREEMPTING)
# set in every process that is started here: who started it answers for it
CHILD = "UNMASK_CHILD"
LEAKING = (
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "NODE_RANK",
    "GROUP_RANK",
    "RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "PL_GLOBAL_SEED",
)
# names the file in which a cell of a sweep tells its results to who started it
SUMMARY = "UNMASK_SUMMARY"
PR_SET_PDEATHSIG = 1
# those of SIGNALS that have come to this process, in order
received_signals: list[int] = []


def start_process(
    command: list[str], extra_env: dict[str, str], **streams: Any
) -> subprocess.Popen:
    """In a session of its own, with our environment and what it is `told`, but without our place in a group."""
    environment = (
        {key: value for key, value in os.environ.items() if key not in LEAKING}
        | {CHILD: "1"}
        | extra_env
    )
    return subprocess.Popen(
        command,
        env=environment,
        start_new_session=True,
        preexec_fn=_end_with_parent,
        **streams,
    )


def _end_with_parent() -> None:
    """Linux sends a process SIGTERM when its parent dies, so that none is left behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def available_cores() -> int:
    """Those that this process may use: schedulers give a job fewer than the machine has."""
    return (
        len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    )


def cores_per_rank() -> int:
    """The share of this one of the processes that train on this machine; a task that SLURM bound has its own."""
    here = available_cores()
    if os.environ.get("SLURM_CPUS_PER_TASK") == str(here):
        return here
    return max(1, here // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def send_signal(number: int, processes: Iterable[subprocess.Popen]) -> None:
    """To those that still run."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


@contextmanager
def time_limit(minutes: float | None) -> Iterator[None]:
    """After so long this process asks itself to leave, as a scheduler would ahead of its own limit."""
    if minutes is None:
        yield
        return
    clock = threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGUSR1))
    clock.daemon = True
    clock.start()
    try:
        yield
    finally:
        clock.cancel()


class Forwarding:
    """Within, signals to this process go on to those that it started: they save and leave.

    The third SIGINT ends them at once (people press Ctrl-C twice). asked: how many signals came.
    """

    def __init__(
        self, numbers: Iterable[int], started: Callable[[], Iterable[subprocess.Popen]]
    ) -> None:
        self.numbers, self.started, self.asked, self.interrupted = (
            numbers,
            started,
            0,
            0,
        )

    def __enter__(self) -> "Forwarding":
        self.before = {
            number: signal.signal(number, self._forward) for number in self.numbers
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        received_signals.append(number)
        self.asked += 1
        self.interrupted += number == signal.SIGINT
        send_signal(number if self.interrupted < 3 else signal.SIGKILL, self.started())

    def catch_up(self, process: subprocess.Popen) -> None:
        """To be called when one has been started and is known: what came before goes to it as well."""
        if self.asked:
            send_signal(received_signals[-1], [process])
