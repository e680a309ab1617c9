"""The processes of a soak, by the folder that they work in, and their roles."""

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

Role = Literal["sweep", "cell", "rank", "worker", "other"]
# by how many of its ancestors work in the folder too
ROLES: tuple[Role, ...] = ("sweep", "cell", "rank", "worker")
# in the command of these processes: tests fork theirs (forked.py)
COMMANDS = ("train.py", "forkserver")


class LivingProcess(NamedTuple):
    pid: int
    parent: int
    role: Role
    command: str


def living_processes(folder: Path) -> list[LivingProcess]:
    """Return the processes that run in the folder; zombies do not run."""
    found = {}
    for process in Path("/proc").iterdir():
        # it has just ended, or belongs to another user
        with suppress(OSError, ValueError):
            if process.name.isdigit() and (process / "cwd").readlink() == folder:
                found[int(process.name)] = _read_process(process)
    return [
        process._replace(role=ROLES[depth])
        if any(part in process.command for part in COMMANDS)
        and (depth := _count_ancestors(process, found)) < len(ROLES)
        else process
        for process in found.values()
    ]


def _read_process(process: Path) -> LivingProcess:
    command = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    state, parent = (process / "stat").read_text().rpartition(")")[2].split()[:2]
    if state == "Z":
        raise OSError("a zombie")
    return LivingProcess(int(process.name), int(parent), "other", " ".join(command))


def _count_ancestors(process: LivingProcess, found: dict[int, LivingProcess]) -> int:
    return (
        1 + _count_ancestors(found[process.parent], found)
        if process.parent in found
        else 0
    )


def send(number: int, pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def end_all(folder: Path) -> None:
    """Send SIGKILL to each until none is left, as when the machine goes down."""
    while left := living_processes(folder):
        send(signal.SIGKILL, [process.pid for process in left])
        time.sleep(0.1)


def wait_for_none(folder: Path, seconds: float) -> list[LivingProcess]:
    """Wait until all have ended; return those that still run after `seconds`."""
    deadline = time.monotonic() + seconds
    while (left := living_processes(folder)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left
