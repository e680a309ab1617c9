"""Processes that this project starts: their environment, signals and exit codes."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

# exit code of a command that was asked to save and leave: run it again
PREEMPTED = 75
# exit code of one of several ranks: start all of them again, with smaller micro-batches
OUT_OF_MEMORY = 76
# sent by SLURM and submitit ahead of a time limit; people send the other two
PREEMPTION_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
# each of them asks a training to save and leave; SIGHUP comes when a terminal or an ssh
# connection is lost
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, *PREEMPTION_SIGNALS)
# set in every process that this project starts, to the number of its parent: the parent
# asks SLURM to requeue, and no child outlives it
CHILD_VARIABLE = "UNMASK_CHILD"
# names the file into which a cell of a sweep writes its results for the launcher
SUMMARY_VARIABLE = "UNMASK_SUMMARY"
# from Linux's <sys/prctl.h>
PR_SET_PDEATHSIG = 1
# the STOP_SIGNALS that this process has received, in order
received_signals: list[int] = []

Handler = Callable[[int, FrameType | None], None]


class Started(Protocol):
    """A process that was started by subprocess, or forked."""

    def wait(self) -> int: ...

    def send_signal(self, number: int, /) -> None: ...


def start_process(
    command: list[str], extra_env: dict[str, str], **named: Any
) -> subprocess.Popen:
    """Start a command of this project in a session of its own.

    named: stdout, stderr and cwd, as of subprocess.Popen.
    """
    return subprocess.Popen(
        command,
        env=os.environ | {CHILD_VARIABLE: str(os.getpid())} | extra_env,
        # a signal to this process's group, such as Ctrl-C, must reach it only once:
        # from ForwardSignals
        start_new_session=True,
        **named,
    )


def wait_for_cell(process: Started, summary: Path) -> tuple[int, list[dict[str, Any]]]:
    """Wait for a cell of a sweep; return its exit code and the results of its stages.

    summary: the file that SUMMARY_VARIABLE names to the cell.
    """
    code = process.wait()
    # killed by the signal: Python was still starting and nothing was begun
    if received_signals and -code in STOP_SIGNALS:
        code = PREEMPTED
    return code, json.loads(summary.read_text()) if summary.exists() else []


def end_with_parent() -> None:
    """Ask Linux to send SIGTERM when the parent dies: no process stays behind.

    To be called first by a command that this project starts.
    """
    parent = os.environ.get(CHILD_VARIABLE)
    if parent is None or sys.platform != "linux":
        return
    request_signal_at_parents_end(signal.SIGTERM)
    # the parent may have died before
    if os.getppid() != int(parent):
        os.kill(os.getpid(), signal.SIGTERM)


def request_signal_at_parents_end(number: int) -> None:
    """Ask Linux to send the signal when the thread ends that started this process."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


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


def handle_stop_signals(handler: Handler) -> dict[int, Any]:
    """Let `handler` answer STOP_SIGNALS; return the handlers before.

    An ignored SIGHUP stays so: nohup asks for it. Python lets the main thread alone set
    handlers: elsewhere nothing happens.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    before: dict[int, Any] = {n: signal.getsignal(n) for n in STOP_SIGNALS}
    if before[signal.SIGHUP] == signal.SIG_IGN:
        del before[signal.SIGHUP]
    for number in before:
        signal.signal(number, handler)
    return before


def restore_handlers(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


class ForwardSignals:
    """Within the block, pass on STOP_SIGNALS to the processes that this one starts.

    They save and leave. A third SIGINT kills them at once: people press Ctrl-C twice.
    """

    def __init__(self) -> None:
        self.processes: list[Started] = []

    def __enter__(self) -> "ForwardSignals":
        received_signals.clear()
        self.before = handle_stop_signals(self._forward)
        return self

    def __exit__(self, *_: object) -> None:
        restore_handlers(self.before)

    def add(self, process: Started) -> None:
        """Pass on signals to a process that has just started.

        The last signal is passed on too, if one came before: none is lost.
        """
        self.processes.append(process)
        if received_signals:
            process.send_signal(received_signals[-1])

    def _forward(self, number: int, frame: FrameType | None) -> None:
        received_signals.append(number)
        is_urgent = received_signals.count(signal.SIGINT) >= 3
        for process in self.processes:
            # nothing happens where the process has ended
            process.send_signal(signal.SIGKILL if is_urgent else number)
