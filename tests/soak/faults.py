"""What is done to a sweep: to its processes from outside, to its newest checkpoint, or from within on request."""

import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from soak.living import Living, Role, end_all, living, send
from soak.sweep import HANG_MINUTES, Sweep
from unmask.distributed.processes import start_process
from unmask.storage import checkpoints

CLAIM = 60.0  # seconds that a request waits for a process that can do it
# seconds in which a stopped process is gone: the time-out, the grace, and some
ENDED = HANG_MINUTES * 60 + 15 + 60


class Target(NamedTuple):
    """What faults are done to. paused: within, nobody starts the sweep again."""

    sweep: Sweep
    main: Callable[[], int | None]  # the process that was started last
    paused: Callable[[], "contextmanager[None]"]
    draw: random.Random
    say: Callable[[str], None]


Fault = Callable[[Target], bool]  # False: there was nothing to do it to


def victim(target: Target, role: Role) -> int | None:
    if role == "sweep":
        return target.main()
    found = sorted(one.pid for one in living(target.sweep.identity) if one.role == role)
    return target.draw.choice(found) if found else None


def signalled(role: Role, number: signal.Signals, times: int = 1) -> Fault:
    def fault(target: Target) -> bool:
        pid = victim(target, role)
        if pid is None:
            return False
        for turn in range(times):
            time.sleep(target.draw.uniform(0.05, 1.0) if turn else 0)
            send(number, [pid])
        return True

    return fault


def stopped(target: Target) -> bool:
    """A hang. Whoever watches must end it; else this raises."""
    pid = victim(target, "rank")
    if pid is None:
        return False
    send(signal.SIGSTOP, [pid])
    since, where = time.monotonic(), _stages(target.sweep)
    while any(one.pid == pid for one in living(target.sweep.identity)):
        if time.monotonic() - since > ENDED:
            send(signal.SIGKILL, [pid])
            raise AssertionError(
                f"a stopped process was still there after {ENDED:.0f} s; open stages:"
                f" {where}"
            )
        time.sleep(0.2)
    target.say(f"ended after {time.monotonic() - since:.0f} s")
    return True


def _stages(sweep: Sweep) -> list[Path]:
    """The unfinished stages that have a checkpoint."""
    found = (
        path.parent.parent for path in sweep.ledger.glob("*/*/checkpoints/last.json")
    )
    return sorted(folder for folder in found if not (folder / "result.json").exists())


def damaged(damage: Callable[[Path, random.Random], None]) -> Fault:
    """To a file that is in use nobody has an answer; so the machine goes down, and its disk has lost something."""

    def fault(target: Target) -> bool:
        with target.paused():
            if not _stages(target.sweep):
                return False
            end_all(target.sweep.identity)
            folders = [folder / "checkpoints" for folder in _stages(target.sweep)]
            if not folders:
                return True  # it was a power cut, then
            newest = folders[0] / checkpoints.entries(folders[0])[-1]["file"]
            if newest.exists():
                damage(newest, target.draw)
            return True

    return fault


def cut(path: Path, draw: random.Random) -> None:
    with path.open("rb+") as file:
        file.truncate(draw.randrange(1, path.stat().st_size))


def emptied(path: Path, draw: random.Random) -> None:
    path.write_bytes(b"")


def flipped(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def from_within(name: str) -> Fault:
    """See inside/sitecustomize.py."""

    def fault(target: Target) -> bool:
        with _asked(target.sweep, name) as request:
            return _comes(lambda: not request.exists())

    return fault


def read_only(target: Target) -> bool:
    """For some seconds, for all processes. Not by chmod: root is not bound by it."""
    with _asked(target.sweep, "ledger read-only") as request:
        met = _comes(lambda: any(request.parent.glob(f"{request.name}.*")))
        if met:
            time.sleep(target.draw.uniform(1, 5))
        return met


@contextmanager
def _asked(sweep: Sweep, name: str) -> Iterator[Path]:
    request = sweep.requests / name
    for earlier in sweep.requests.glob(f"{name}.*"):
        earlier.unlink()
    request.touch()
    try:
        yield request
    finally:
        request.unlink(missing_ok=True)


def _comes(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + CLAIM
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def second_sweep(target: Target) -> bool:
    """The same command in the same ledger at the same time, for a while; then it is asked to leave."""
    with (target.sweep.folder / "second.txt").open("ab") as said:
        other = start_process(
            target.sweep.command(), target.sweep.environment(), stdout=said, stderr=said
        )
    try:
        other.wait(target.draw.uniform(8, 20))
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
        f"SIGKILL to a {role}": signalled(role, signal.SIGKILL)
        for role in ("sweep", "cell", "rank", "worker")
    },
    **{
        f"SIGTERM to a {role}": signalled(role, signal.SIGTERM)
        for role in ("sweep", "cell", "rank")
    },
    **{
        f"SIGTERM twice to a {role}": signalled(role, signal.SIGTERM, 2)
        for role in ("sweep", "cell", "rank")
    },
    "SIGSTOP to a rank": stopped,
    "newest checkpoint cut": damaged(cut),
    "newest checkpoint emptied": damaged(emptied),
    "newest checkpoint flipped": damaged(flipped),
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
    "ledger read-only": read_only,
    "second sweep": second_sweep,
}


def told(left: list[Living]) -> str:
    return "; ".join(f"{one.role} {one.pid}: {one.command}" for one in left)
