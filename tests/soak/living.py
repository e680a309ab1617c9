"""The processes of a soak, found by the marker in their environment, and what each of them is."""

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from soak.sweep import MARKER

Role = Literal["sweep", "cell", "rank", "worker", "other"]


class Living(NamedTuple):
    pid: int
    parent: int
    role: Role
    command: str


def living(identity: str) -> list[Living]:
    """All that carry the marker and still run; zombies do not."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            # it has just ended, or is not ours to look at
            with suppress(OSError, IndexError):
                environ = (folder / "environ").read_bytes().split(b"\0")
                if f"{MARKER}={identity}".encode() in environ:
                    found[int(folder.name)] = _seen(folder, environ)
    ranks = {one.pid for one in found.values() if one.role == "rank"}
    # a loader's worker is forked: it has its rank's command and environment
    return [
        (
            one._replace(role="worker")
            if one.parent in ranks and one.role == "rank"
            else one
        )
        for one in found.values()
    ]


def _seen(folder: Path, environ: list[bytes]) -> Living:
    command = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
    state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
    if state == "Z":
        raise OSError("a zombie")
    role: Role = "other"
    if any(part.endswith("train.py") for part in command):
        started = b"UNMASK_STARTED=1" in environ
        role = "rank" if started else "sweep" if "-m" in command else "cell"
    return Living(int(folder.name), int(parent), role, " ".join(command[:3]))


def send(number: int, pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def end_all(identity: str) -> None:
    """As a machine that goes down does: SIGKILL to each, until none is left."""
    while left := living(identity):
        send(signal.SIGKILL, [one.pid for one in left])
        time.sleep(0.1)


def wait_for_none(identity: str, seconds: float) -> list[Living]:
    """Those that are still there after so long."""
    deadline = time.monotonic() + seconds
    while (left := living(identity)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left
