"""The processes of a soak, by the marker in their environment, and their roles."""

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from soak.sweep import MARKER

Role = Literal["sweep", "cell", "rank", "worker", "other"]


class LivingProcess(NamedTuple):
    pid: int
    parent: int
    role: Role
    command: str


def living_processes(identity: str) -> list[LivingProcess]:
    """Return the processes with the marker that still run; zombies do not."""
    processes = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            # it has just ended, or belongs to another user
            with suppress(OSError, IndexError):
                environ = (folder / "environ").read_bytes().split(b"\0")
                if f"{MARKER}={identity}".encode() in environ:
                    processes[int(folder.name)] = _read_process(folder, environ)
    ranks = {process.pid for process in processes.values() if process.role == "rank"}
    # a loader's worker is forked: it has its rank's command and environment
    return [
        (
            process._replace(role="worker")
            if process.parent in ranks and process.role == "rank"
            else process
        )
        for process in processes.values()
    ]


def _read_process(folder: Path, environ: list[bytes]) -> LivingProcess:
    command = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
    state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
    if state == "Z":
        raise OSError("a zombie")
    role: Role = "other"
    if any(part.endswith("train.py") for part in command):
        if b"UNMASK_STARTED=1" in environ:
            role = "rank"
        else:
            role = "sweep" if "-m" in command else "cell"
    return LivingProcess(int(folder.name), int(parent), role, " ".join(command[:3]))


def send(number: int, pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def end_all(identity: str) -> None:
    """Send SIGKILL to each until none is left, as when the machine goes down."""
    while left := living_processes(identity):
        send(signal.SIGKILL, [process.pid for process in left])
        time.sleep(0.1)


def wait_for_none(identity: str, seconds: float) -> list[LivingProcess]:
    """Wait until all have ended; return those that still run after `seconds`."""
    deadline = time.monotonic() + seconds
    while (left := living_processes(identity)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left
