"""Start one rank for each device of this machine, watch them and end them together.

As torchrun does, but torchrun turns each exit code into 1: the code 75 (preempted, run
me again) would not reach sweeps and schedulers. And only the first error is printed.
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
    OUT_OF_MEMORY,
    PREEMPTED,
    STOP_SIGNALS,
    ForwardSignals,
    available_cores,
    send_signal,
    start_process,
)
from unmask.distributed.ranks import RankInfo

TRAIN_SCRIPT = Path(__file__).parents[2] / "train.py"
# set in the ranks that are started here: the launcher's command prints the results
STARTED_VARIABLE = "UNMASK_STARTED"
POLL_SECONDS = 0.05
# how long the other ranks may take to leave when one has ended
GRACE_SECONDS = 15.0


class RankProcess(NamedTuple):
    """A started rank and the file of its stderr; None: it writes to the launcher's."""

    rank: int
    process: subprocess.Popen
    stderr: IO[bytes] | None


class Launcher:
    """Run `python train.py <overrides>` as one rank for each device of this machine.

    launcher_rank: the launcher's own, where srun has started one on each machine;
    None on a single machine.
    """

    def __init__(
        self,
        overrides: Sequence[str],
        local_world_size: int,
        world_size: int,
        launcher_rank: RankInfo | None,
    ) -> None:
        self.overrides = list(overrides)
        self.local_world_size = local_world_size
        self.world_size = world_size
        self.launcher_rank = launcher_rank
        self.rank_processes: list[RankProcess] = []

    def __call__(self) -> int:
        """Return 0, or the exit code of the rank that failed first, after the end."""
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        # several machines meet at the address that they all know
        if self.launcher_rank:
            address = {name: os.environ[name] for name in address}
        with (
            tempfile.TemporaryDirectory(prefix="unmask-ranks-") as folder,
            ForwardSignals(STOP_SIGNALS, self._processes) as signals,
        ):
            try:
                for local_rank in range(self.local_world_size):
                    started = self._start(local_rank, address, Path(folder))
                    self.rank_processes.append(started)
                    signals.forward_earlier(started.process)
                return self._watch()
            finally:
                for process in self._processes():
                    process.kill()
                    process.wait()

    def _processes(self) -> list[subprocess.Popen]:
        return [started.process for started in self.rank_processes]

    def _start(
        self, local_rank: int, address: dict[str, str], folder: Path
    ) -> RankProcess:
        """Start a rank. All but rank zero are silent; their stderr goes to a file."""
        node_rank = self.launcher_rank.node_rank if self.launcher_rank else 0
        rank = node_rank * self.local_world_size + local_rank
        # else each process would take all cores
        threads = max(1, available_cores() // self.local_world_size)
        variables = address | {
            "RANK": str(rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_RANK": str(local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_world_size),
            "NODE_RANK": str(node_rank),
            STARTED_VARIABLE: "1",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        }
        command = [sys.executable, str(TRAIN_SCRIPT), *self.overrides]
        if rank == 0:
            return RankProcess(rank, start_process(command, variables), None)
        stderr = (folder / f"{rank}.txt").open("w+b")
        process = start_process(
            command, variables, stdout=subprocess.DEVNULL, stderr=stderr
        )
        return RankProcess(rank, process, stderr)

    def _watch(self) -> int:
        """Wait for all ranks; when one fails, stop the others."""
        first: RankProcess | None = None
        deadline = float("inf")
        while any(process.poll() is None for process in self._processes()):
            time.sleep(POLL_SECONDS)
            failed = self._failed()
            if failed and first is None:
                first = min(failed, key=_blame_sort_key)
                deadline = time.monotonic() + GRACE_SECONDS
                # ranks agree among themselves to save when one is preempted
                if first.process.returncode != PREEMPTED:
                    send_signal(signal.SIGTERM, self._processes())
            if time.monotonic() > deadline:
                send_signal(signal.SIGKILL, self._processes())
        # all may have ended within one look
        if first is None:
            first = next(iter(self._failed()), None)
        return _report(first) if first else 0

    def _failed(self) -> list[RankProcess]:
        """Return the ranks that have ended with another exit code than 0."""
        return [started for started in self.rank_processes if started.process.poll()]


def _blame_sort_key(failed: RankProcess) -> tuple[bool, bool]:
    """Return a sort key that puts the likely cause of a failure first.

    Ranks killed by a signal (a negative code) come first, then ranks that exited on
    purpose. Other codes are often consequences, such as a broken connection.
    """
    code = failed.process.returncode
    return code > 0, code not in (PREEMPTED, OUT_OF_MEMORY)


def _report(first: RankProcess) -> int:
    """Print why the first rank failed; return the launcher's exit code.

    The rank's own code, but 1 where a signal killed it.
    """
    code = first.process.returncode
    if code in (PREEMPTED, OUT_OF_MEMORY):
        return code
    # asked to leave before it could answer: Python was still starting
    if -code in STOP_SIGNALS:
        return PREEMPTED
    # rank zero has printed its error itself
    if first.stderr:
        first.stderr.seek(0)
        error = first.stderr.read().decode(errors="replace").strip()
        print(error, file=sys.stderr)
    if code > 0:
        if first.rank:
            print(
                f"process {first.rank} failed first; the others were ended",
                file=sys.stderr,
            )
        return code
    cause = " (as the system does when memory is full)"
    print(
        f"process {first.rank} was killed by {signal.Signals(-code).name}"
        + (cause if code == -signal.SIGKILL else "")
        + "; the same command goes on from the last checkpoint",
        file=sys.stderr,
    )
    return 1


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
