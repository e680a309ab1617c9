"""Start one rank for each device of this machine, watch them and end them together.

By torch's elastic processes, as torchrun does; but torchrun itself turns each exit code
into 1, and the code 75 (preempted, run me again) would not reach sweeps and schedulers.
"""

import logging
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from unmask.distributed.processes import (
    CHILD_VARIABLE,
    OUT_OF_MEMORY,
    PREEMPTED,
    STOP_SIGNALS,
    ForwardSignals,
    available_cores,
)
from unmask.distributed.ranks import RankInfo

# set in the ranks that are started here: the launcher's command prints the results
STARTED_VARIABLE = "UNMASK_STARTED"
POLL_SECONDS = 0.05


def launch(
    command: list[str],
    local_world_size: int,
    world_size: int,
    launcher_rank: RankInfo | None,
) -> int:
    """Run a command as one rank for each device of this machine.

    launcher_rank: the launcher's own, where srun has started one on each machine; None
    on a single machine. Returns 0, or the exit code of the rank that failed first, when
    all have ended.
    """
    environments = _environments(local_world_size, world_size, launcher_rank)
    with (
        ForwardSignals() as signals,
        tempfile.TemporaryDirectory(prefix="unmask-ranks-") as folder,
    ):
        context = _start(command, environments, folder)
        try:
            for handler in context.subprocess_handlers.values():
                signals.add(handler.proc)
            failed = _wait_for_failure(context)
            # the others are asked to leave, and killed later
            context.close(signal.SIGTERM)
        finally:
            context.close(signal.SIGKILL)
        if failed is None:
            return 0
        local_rank, code = failed
        error = ""
        if path := context.stderrs[local_rank]:
            error = Path(path).read_text(errors="replace").strip()
        return _report(environments[local_rank]["RANK"], code, error)


def _wait_for_failure(context: Any) -> tuple[int, int] | None:
    """Return local rank and exit code of the first failure; None when all end well.

    Of ranks that fail within one look torch's own wait() names the lowest. Here one
    that a signal killed comes first, then one that exited on purpose: other codes are
    often consequences, such as a broken connection.
    """
    while True:
        codes = {i: its.proc.poll() for i, its in context.subprocess_handlers.items()}
        if failed := [(i, code) for i, code in codes.items() if code]:
            return min(failed, key=lambda its: _blame_order(its[1]))
        if None not in codes.values():
            return None
        time.sleep(POLL_SECONDS)


def _blame_order(code: int) -> tuple[bool, bool]:
    return code > 0, code not in (PREEMPTED, OUT_OF_MEMORY)


def _start(
    command: list[str], environments: dict[int, dict[str, str]], folder: str
) -> Any:
    """Start the command in each of the environments."""
    # it imports torch, which takes seconds
    from torch.distributed.elastic.multiprocessing import (
        DefaultLogsSpecs,
        Std,
        start_processes,
    )

    # it logs all signals and exit codes; _report prints what matters
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    # by default torch replaces the handlers of ForwardSignals
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"
    # rank zero alone prints
    redirects = {i: Std.ALL for i, its in environments.items() if its["RANK"] != "0"}
    return start_processes(
        "rank",
        command[0],
        dict.fromkeys(environments, tuple(command[1:])),
        environments,
        DefaultLogsSpecs(folder, redirects),
    )


def _environments(
    local_world_size: int, world_size: int, launcher_rank: RankInfo | None
) -> dict[int, dict[str, str]]:
    """Return torchrun's variables, and ours, for each rank of this machine."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    node_rank = 0
    # several machines meet at the address that they all know
    if launcher_rank:
        address = {name: os.environ[name] for name in address}
        node_rank = launcher_rank.node_rank
    # else each process would take all cores
    threads = max(1, available_cores() // local_world_size)
    shared = address | {
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(local_world_size),
        "NODE_RANK": str(node_rank),
        STARTED_VARIABLE: "1",
        CHILD_VARIABLE: str(os.getpid()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
    }
    first = node_rank * local_world_size
    return {
        i: shared | {"LOCAL_RANK": str(i), "RANK": str(first + i)}
        for i in range(local_world_size)
    }


def _report(rank: str, code: int, error: str) -> int:
    """Print why the first rank failed; return the launcher's exit code.

    The rank's own code, but 1 where a signal killed it. error: its stderr, empty where
    it has printed it itself.
    """
    if code in (PREEMPTED, OUT_OF_MEMORY):
        return code
    # asked to leave before it could answer: Python was still starting
    if -code in STOP_SIGNALS:
        return PREEMPTED
    if error:
        print(error, file=sys.stderr)
    if code > 0:
        if rank != "0":
            print(
                f"process {rank} failed first; the others were ended", file=sys.stderr
            )
        return code
    cause = " (as the system does when memory is full)"
    print(
        f"process {rank} was killed by {signal.Signals(-code).name}"
        + (cause if code == -signal.SIGKILL else "")
        + "; the same command goes on from the last checkpoint",
        file=sys.stderr,
    )
    return 1


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
