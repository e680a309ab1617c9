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
from types import FrameType
from typing import IO, NamedTuple

from unmask.runs.processes import LEAKING, PREEMPTED, end_with_parent
from unmask.runs.world import World

TRAIN = Path(__file__).parents[2] / "train.py"
STARTED = "UNMASK_STARTED"  # set in what it starts: the results are told by who started them
POLL = 0.05  # seconds
GRACE = 15.0  # seconds that the others have when one is gone


class Member(NamedTuple):
    """A started process, and where what it says on stderr goes; None: to ours."""

    rank: int
    process: subprocess.Popen
    said: IO[bytes] | None


class Conductor:
    """Starts `python train.py <overrides>` once a device of this machine."""

    def __init__(self, overrides: Sequence[str], each: int, total: int, started: World | None) -> None:
        self.overrides, self.each, self.total, self.started = list(overrides), each, total, started
        self.asked = 0
        self.members: list[Member] = []

    def __call__(self) -> int:
        """Wait for the end; the exit code of the first that did not end well, else 0."""
        handlers = {s: signal.signal(s, self._forward) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
        try:
            with tempfile.TemporaryDirectory(prefix="unmask-ranks-") as folder:
                port = os.environ.get("MASTER_PORT") if self.started else str(_free_port())
                self.members = [self._start(local, str(port), Path(folder)) for local in range(self.each)]
                return self._watch()
        finally:
            for member in self.members:
                member.process.kill()
                member.process.wait()
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _start(self, local: int, port: str, folder: Path) -> Member:
        """All but the first are silent: what they say is kept, for when one of them fails first."""
        rank = (self.started.machine if self.started else 0) * self.each + local
        environment = {key: value for key, value in os.environ.items() if key not in LEAKING} | {
            "RANK": str(rank), "WORLD_SIZE": str(self.total), "LOCAL_RANK": str(local),
            "LOCAL_WORLD_SIZE": str(self.each), "NODE_RANK": str(rank // self.each), "MASTER_PORT": port,
            "MASTER_ADDR": os.environ["MASTER_ADDR"] if self.started else "127.0.0.1", STARTED: "1",
        }  # fmt: skip
        # each would take all cores
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // self.each)))
        said = (folder / f"{rank}.txt").open("w+b") if rank else None
        process = subprocess.Popen(
            [sys.executable, str(TRAIN), *self.overrides], env=environment, start_new_session=True,
            preexec_fn=end_with_parent, stdout=subprocess.DEVNULL if rank else None, stderr=said,
        )  # fmt: skip
        return Member(rank, process, said)

    def _watch(self) -> int:
        first: Member | None = None
        deadline = float("inf")
        while any(member.process.poll() is None for member in self.members):
            time.sleep(POLL)
            gone = [member for member in self.members if member.process.poll()]
            if gone and first is None:
                first, deadline = gone[0], time.monotonic() + GRACE
                if first.process.returncode != PREEMPTED:
                    self._send(signal.SIGTERM)
            if time.monotonic() > deadline:
                self._send(signal.SIGKILL)
        first = first or next((member for member in self.members if member.process.returncode), None)
        return _told(first) if first else 0

    def _forward(self, number: int, frame: FrameType | None) -> None:
        """Pass the signal on: they save and leave; the third one ends them at once."""
        self.asked += 1
        self._send(number if self.asked < 3 else signal.SIGKILL)

    def _send(self, number: int) -> None:
        for member in self.members:
            if member.process.poll() is None:
                member.process.send_signal(number)


def _told(first: Member) -> int:
    """Say what the first one that failed said, unless it was heard; its exit code, 1 where a signal killed it."""
    code = first.process.returncode
    if code == PREEMPTED:
        return code
    if first.said:
        first.said.seek(0)
        print(first.said.read().decode(errors="replace").strip(), file=sys.stderr)
    if code > 0:
        if first.rank:
            print(f"process {first.rank} failed first; the others were ended", file=sys.stderr)
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
