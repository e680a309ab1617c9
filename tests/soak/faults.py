"""The faults: to a sweep's processes, to its newest checkpoint, or from within."""

import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from soak.living import LivingProcess, Role, end_all, living_processes, send
from soak.sweep import HANG_MINUTES, Sweep
from unmask.distributed.processes import start_process
from unmask.storage import checkpoints

# seconds that a request waits for a process that can do it
CLAIM = 60.0
# seconds after which a stopped process is gone: the time-out, the grace, and some
ENDED = HANG_MINUTES * 60 + 15 + 60


class Target(NamedTuple):
    """The sweep that faults are done to.

    paused: a context in which the sweep is not started again.
    """

    sweep: Sweep
    # of the process that was started last
    sweep_pid: Callable[[], int | None]
    paused: Callable[[], "contextmanager[None]"]
    rng: random.Random
    log: Callable[[str], None]


# returns False where the fault is not possible at present
Fault = Callable[[Target], bool]


def choose_victim(target: Target, role: Role) -> int | None:
    """Return the id of a random process of that role; None where there is none."""
    if role == "sweep":
        return target.sweep_pid()
    pids = sorted(
        process.pid
        for process in living_processes(target.sweep.folder)
        if process.role == role
    )
    return target.rng.choice(pids) if pids else None


def send_to(role: Role, number: signal.Signals, times: int = 1) -> Fault:
    """Make a fault that sends a signal to a process of that role."""

    def fault(target: Target) -> bool:
        pid = choose_victim(target, role)
        if pid is None:
            return False
        for turn in range(times):
            time.sleep(target.rng.uniform(0.05, 1.0) if turn else 0)
            send(number, [pid])
        return True

    return fault


def stop_rank(target: Target) -> bool:
    """Let a rank hang; raise AssertionError where the watchdog does not end it."""
    pid = choose_victim(target, "rank")
    if pid is None:
        return False
    send(signal.SIGSTOP, [pid])
    since = time.monotonic()
    stages = _unfinished_stages(target.sweep)
    while any(process.pid == pid for process in living_processes(target.sweep.folder)):
        if time.monotonic() - since > ENDED:
            send(signal.SIGKILL, [pid])
            raise AssertionError(
                f"a stopped process was still there after {ENDED:.0f} s; open stages:"
                f" {stages}"
            )
        time.sleep(0.2)
    target.log(f"ended after {time.monotonic() - since:.0f} s")
    return True


def _unfinished_stages(sweep: Sweep) -> list[Path]:
    """Return the folders of unfinished stages that have a checkpoint."""
    folders = (
        path.parent.parent for path in sweep.ledger.glob("*/*/checkpoints/last.json")
    )
    return sorted(folder for folder in folders if not (folder / "result.json").exists())


def damage_newest(damage: Callable[[Path, random.Random], None]) -> Fault:
    """Make a fault that damages the newest checkpoint while nothing runs.

    As when the machine goes down and its disk loses something: nothing can protect a
    file that is in use.
    """

    def fault(target: Target) -> bool:
        with target.paused():
            if not _unfinished_stages(target.sweep):
                return False
            end_all(target.sweep.folder)
            folders = [
                folder / "checkpoints" for folder in _unfinished_stages(target.sweep)
            ]
            # the stage has ended meanwhile: this was a mere power cut
            if not folders:
                return True
            newest = folders[0] / checkpoints.index_entries(folders[0])[-1]["file"]
            if newest.exists():
                damage(newest, target.rng)
            return True

    return fault


def cut(path: Path, rng: random.Random) -> None:
    with path.open("rb+") as file:
        file.truncate(rng.randrange(1, path.stat().st_size))


def empty(path: Path, rng: random.Random) -> None:
    path.write_bytes(b"")


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def from_within(name: str) -> Fault:
    """Make a fault that a process does to itself: see inside/sitecustomize.py."""

    def fault(target: Target) -> bool:
        with _requested(target.sweep, name) as request:
            return _becomes_true(lambda: not request.exists(), target)

    return fault


def make_read_only(target: Target) -> bool:
    """Make the ledger read-only for some seconds, for all processes.

    Not by chmod, which does not bind root.
    """
    with _requested(target.sweep, "ledger read-only") as request:
        met = _becomes_true(
            lambda: any(request.parent.glob(f"{request.name}.*")), target
        )
        if met:
            time.sleep(target.rng.uniform(1, 5))
        return met


@contextmanager
def _requested(sweep: Sweep, name: str) -> Iterator[Path]:
    """Hold a request for the fault of that name for the block."""
    request = sweep.requests / name
    for earlier in sweep.requests.glob(f"{name}.*"):
        earlier.unlink()
    request.touch()
    try:
        yield request
    finally:
        request.unlink(missing_ok=True)


def _becomes_true(condition: Callable[[], bool], target: Target) -> bool:
    """Wait until it is true; return False where the sweep ends, or after CLAIM."""
    deadline = time.monotonic() + CLAIM
    while not condition():
        if time.monotonic() > deadline or target.sweep_pid() is None:
            return False
        time.sleep(0.05)
    return True


def run_second_sweep(target: Target) -> bool:
    """Run the same command in the same ledger for a while, then ask it to leave."""
    with (target.sweep.folder / "second.txt").open("ab") as output:
        other = start_process(
            target.sweep.command(),
            target.sweep.environment(),
            cwd=target.sweep.folder,
            stdout=output,
            stderr=output,
        )
    try:
        other.wait(target.rng.uniform(8, 20))
    except subprocess.TimeoutExpired:
        other.terminate()
        try:
            other.wait(60)
        except subprocess.TimeoutExpired:
            other.kill()
            raise AssertionError(
                "a second sweep did not leave within 60 s of SIGTERM"
            ) from None
    return True


FAULTS: dict[str, Fault] = {
    **{
        f"SIGKILL to a {role}": send_to(role, signal.SIGKILL)
        for role in ("sweep", "cell", "rank", "worker")
    },
    **{
        f"SIGTERM to a {role}": send_to(role, signal.SIGTERM)
        for role in ("sweep", "cell", "rank")
    },
    **{
        f"SIGTERM twice to a {role}": send_to(role, signal.SIGTERM, 2)
        for role in ("sweep", "cell", "rank")
    },
    "SIGSTOP to a rank": stop_rank,
    "newest checkpoint cut": damage_newest(cut),
    "newest checkpoint emptied": damage_newest(empty),
    "newest checkpoint flipped": damage_newest(flip),
    **{
        name: from_within(name)
        for name in (
            "disk full while saving",
            "disk full while logging",
            "rename lost",
            "loss is NaN",
            "out of memory",
            "clock forward",
            "clock back",
        )
    },
    "ledger read-only": make_read_only,
    "second sweep": run_second_sweep,
}


def describe(processes: list[LivingProcess]) -> str:
    return "; ".join(
        f"{process.role} {process.pid}: {process.command[:100]}"
        for process in processes
    )
