"""One process a device, started, watched and ended together: what torchrun does, but for exit codes and first words.

torchrun turns each exit code into 1, and 75 (preempted: run me again) would be lost to sweeps and schedulers.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

from unmask.distributed.processes import (
    MEMORY_FULL,
    PREEMPTED,
    SIGNALS,
    Forwarding,
    available_cores,
    send_signal,
    start_process,
)
from unmask.distributed.ranks import RankInfo

TRAIN = Path(__file__).parents[2] / "train.py"
# set in what it starts: the results are told by who started them
STARTED = "UNMASK_STARTED"
POLL = 0.05  # seconds
GRACE = 15.0  # seconds that the others have when one is gone


class RankProcess(NamedTuple):
    """A started process, and where what it says on stderr goes; None: to ours."""

    rank: int
    process: subprocess.Popen
    said: IO[bytes] | None


class Launcher:
    """Starts `python train.py <overrides>` once a device of this machine."""

    def __init__(
        self, overrides: Sequence[str], each: int, total: int, started: RankInfo | None
    ) -> None:
        self.overrides, self.each, self.total, self.started = (
            list(overrides),
            each,
            total,
            started,
        )
        self.members: list[RankProcess] = []

    def __call__(self) -> int:
        """Wait for the end; the exit code of the first that did not end well, else 0."""
        if self.started:
            address = {
                name: os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT")
            }
        else:
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        with (
            tempfile.TemporaryDirectory(prefix="unmask-ranks-") as folder,
            Forwarding(SIGNALS, self._processes) as signals,
        ):
            try:
                for local in range(self.each):
                    self.members.append(self._start(local, address, Path(folder)))
                    signals.catch_up(self.members[-1].process)
                return self._watch()
            finally:
                for process in self._processes():
                    process.kill()
                    process.wait()

    def _processes(self) -> list[subprocess.Popen]:
        return [member.process for member in self.members]

    def _start(self, local: int, address: dict[str, str], folder: Path) -> RankProcess:
        """All but the first are silent: what they say is kept, for when one of them fails first."""
        rank = (self.started.machine if self.started else 0) * self.each + local
        # each process would take all cores
        threads = max(1, available_cores() // self.each)
        told = address | {
            "RANK": str(rank),
            "WORLD_SIZE": str(self.total),
            "LOCAL_RANK": str(local),
            "LOCAL_WORLD_SIZE": str(self.each),
            "NODE_RANK": str(rank // self.each),
            STARTED: "1",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        }
        said = (folder / f"{rank}.txt").open("w+b") if rank else None
        silent = {"stdout": subprocess.DEVNULL, "stderr": said} if said else {}
        return RankProcess(
            rank,
            start_process(
                [sys.executable, str(TRAIN), *self.overrides], told, **silent
            ),
            said,
        )

    def _watch(self) -> int:
        first: RankProcess | None = None
        deadline = float("inf")
        while any(process.poll() is None for process in self._processes()):
            time.sleep(POLL)
            gone = [member for member in self.members if member.process.poll()]
            if gone and first is None:
                first = min(gone, key=_blame)
                deadline = time.monotonic() + GRACE
                if first.process.returncode != PREEMPTED:
                    send_signal(signal.SIGTERM, self._processes())
            if time.monotonic() > deadline:
                send_signal(signal.SIGKILL, self._processes())
        first = first or next(
            (member for member in self.members if member.process.returncode), None
        )
        return _told(first) if first else 0


def _blame(member: RankProcess) -> tuple[bool, bool]:
    """Of several gone at one look, the killed one (its code is negative) is why others failed; so is one that left."""
    code = member.process.returncode
    return code > 0, code not in (PREEMPTED, MEMORY_FULL)


def _told(first: RankProcess) -> int:
    """Say what the first one that failed said, unless it was heard; its exit code, 1 where a signal killed it."""
    code = first.process.returncode
    if code in (PREEMPTED, MEMORY_FULL):
        return code
    if -code in SIGNALS:  # asked before it could answer: Python was still starting
        return PREEMPTED
    if first.said:
        first.said.seek(0)
        print(first.said.read().decode(errors="replace").strip(), file=sys.stderr)
    if code > 0:
        if first.rank:
            print(
                f"process {first.rank} failed first; the others were ended",
                file=sys.stderr,
            )
        return code
    print(
        f"process {first.rank} was killed by {signal.Signals(-code).name}"
        + (" (so do systems whose memory is full)" if code == -signal.SIGKILL else "")
        + "; the same command goes on from the last checkpoint",
        file=sys.stderr,
    )
    return 1


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
