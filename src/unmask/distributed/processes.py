"""Processes that this project starts: their environment, signals and exit codes."""

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

# exit code of a command that was asked to save and leave: run it again
PREEMPTED = 75
# exit code of one of several ranks: start all of them again, with smaller micro-batches
OUT_OF_MEMORY = 76
# sent by SLURM and submitit ahead of a time limit; people send the other two
PREEMPTION_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
# each of them asks a training to save and leave
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, *PREEMPTION_SIGNALS)
# set in every process that start_process starts: its parent asks SLURM to requeue
CHILD_VARIABLE = "UNMASK_CHILD"
# not inherited: the parent may be a rank of its own group
RANK_VARIABLES = (
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
# names the file into which a cell of a sweep writes its results for the launcher
SUMMARY_VARIABLE = "UNMASK_SUMMARY"
# from Linux's <sys/prctl.h>
PR_SET_PDEATHSIG = 1
# the STOP_SIGNALS that this process has received, in order
received_signals: list[int] = []


def start_process(
    command: list[str], extra_env: dict[str, str], **streams: Any
) -> subprocess.Popen:
    """Start a command in a session of its own.

    It gets this process's environment without the RANK_VARIABLES, and `extra_env`.
    streams: stdout and stderr, as of subprocess.Popen.
    """
    inherited = {
        name: value for name, value in os.environ.items() if name not in RANK_VARIABLES
    }
    return subprocess.Popen(
        command,
        env=inherited | {CHILD_VARIABLE: "1"} | extra_env,
        # a signal to this process's group, such as Ctrl-C, must reach it only once:
        # from ForwardSignals
        start_new_session=True,
        preexec_fn=_end_with_parent,
        **streams,
    )


def _end_with_parent() -> None:
    """Ask Linux to send SIGTERM when the parent dies: no process stays behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def available_cores() -> int:
    """Return how many cores this process may use; a scheduler may restrict them."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores_per_rank() -> int:
    """Return this rank's share of the machine's cores."""
    cores = available_cores()
    # SLURM has bound this task to its own cores already
    if os.environ.get("SLURM_CPUS_PER_TASK") == str(cores):
        return cores
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def send_signal(number: int, processes: Iterable[subprocess.Popen]) -> None:
    """Send a signal to those processes that still run."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


@contextmanager
def time_limit(minutes: float | None) -> Iterator[None]:
    """Ask this process to save and leave after `minutes`; None: no limit.

    It sends SIGUSR1 to itself, as a scheduler does ahead of its own limit.
    """
    if minutes is None:
        yield
        return
    timer = threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class ForwardSignals:
    """Within the block, pass on signals to the processes that this one has started.

    They save and leave. A third SIGINT kills them at once: people press Ctrl-C twice.
    num_received: how many signals have come.
    """

    def __init__(
        self,
        signals: Iterable[int],
        list_processes: Callable[[], Iterable[subprocess.Popen]],
    ) -> None:
        self.signals = signals
        self.list_processes = list_processes
        self.num_received = 0
        self.num_interrupts = 0

    def __enter__(self) -> "ForwardSignals":
        self.before = {
            number: signal.signal(number, self._forward) for number in self.signals
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        received_signals.append(number)
        self.num_received += 1
        self.num_interrupts += number == signal.SIGINT
        sent = number if self.num_interrupts < 3 else signal.SIGKILL
        send_signal(sent, self.list_processes())

    def forward_earlier(self, process: subprocess.Popen) -> None:
        """Pass on the last signal, if one came, to a process that has just started.

        Call it once list_processes returns the process: no signal is then lost.
        """
        if self.num_received:
            send_signal(received_signals[-1], [process])
