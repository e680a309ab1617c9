"""Faults that come from within: in every Python that the soak starts, Python itself imports this file first.

The soak asks by a file in UNMASK_SOAK_REQUESTS, named as the fault. The process that renames it first has claimed it
and does it, once. What stands after the new name is the claimer's parent: the conductor of its cell.
"""

import errno
import os
import sys
import time
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

REQUESTS, LEDGER = os.environ["UNMASK_SOAK_REQUESTS"], os.environ["UNMASK_SOAK_LEDGER"]
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGING = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
JUMP = 86_400.0  # seconds


def claimed(fault: str) -> bool:
    try:
        os.rename(f"{REQUESTS}/{fault}", f"{REQUESTS}/{fault}.{os.getppid()}")
    except OSError:  # nobody asks, or another was quicker
        return False
    return True


def failed(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)


def audit(event: str, details: tuple[Any, ...]) -> None:
    """What is raised here the caller gets: a ledger that is read-only while the request stands, a rename that is lost."""
    if event != "open" and event not in CHANGING:
        return
    path = str(details[1] if event == "os.rename" else details[0])
    if not path.startswith(LEDGER):
        return
    if (event != "open" or details[2] & WRITING) and os.path.exists(
        f"{REQUESTS}/ledger read-only"
    ):
        os.close(os.open(f"{REQUESTS}/ledger read-only.{os.getppid()}", os.O_CREAT))
        raise failed(errno.EROFS, path)
    if event == "os.rename" and claimed("rename lost"):
        raise failed(errno.EIO, path)


def full_at_flush(flush: Callable[[int], None]) -> Callable[[int], None]:
    def fsync(file: Any) -> None:
        number = file if isinstance(file, int) else file.fileno()
        if ".ckpt." in os.readlink(f"/proc/self/fd/{number}") and claimed(
            "disk full while saving"
        ):
            os.ftruncate(number, os.fstat(number).st_size // 2)
            raise failed(errno.ENOSPC, "")
        flush(file)

    return fsync


def in_metrics_log(metrics: ModuleType) -> None:
    append = metrics.append

    def half(path: Any, row: dict[str, Any]) -> None:
        if claimed("disk full while logging"):
            with path.open("ab") as file:
                file.write(b'{"step": ')
            raise failed(errno.ENOSPC, str(path))
        append(path, row)

    metrics.append = half  # type: ignore[attr-defined]


def in_checkpointing(checkpointing: ModuleType) -> None:
    at_end, real = checkpointing.Checkpointing.on_train_batch_end, time.time

    def jumping(self: Any, *args: Any, **named: Any) -> None:
        for fault, seconds in (("clock forward", JUMP), ("clock back", -JUMP)):
            if claimed(fault):
                time.time = lambda seconds=seconds: real() + seconds
        at_end(self, *args, **named)

    checkpointing.Checkpointing.on_train_batch_end = jumping


def in_task(kind: str) -> Callable[[ModuleType], None]:
    def patch(module: ModuleType) -> None:
        task = getattr(module, kind)
        step = task.training_step

        def faulty(self: Any, batch: Any, batch_idx: int) -> Any:
            # all that this cell's conductor starts: where it tries again with smaller
            # parts, these do not fit either
            if claimed("out of memory") or os.path.exists(
                f"{REQUESTS}/out of memory.{os.getppid()}"
            ):
                import torch

                raise torch.OutOfMemoryError("the soak's own: can't allocate memory")
            loss = step(self, batch, batch_idx)
            return loss * float("nan") if claimed("loss is NaN") else loss

        task.training_step = faulty

    return patch


PATCHES = {
    "unmask.callbacks.metrics": in_metrics_log,
    "unmask.callbacks.checkpointing": in_checkpointing,
    "unmask.tasks.pretrain": in_task("Pretrain"),
    "unmask.tasks.classify": in_task("Classify"),
}


class Patching(MetaPathFinder):
    """Finds as the others do, and patches what was imported."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name not in PATCHES:
            return None
        sys.meta_path.remove(self)
        try:
            spec = find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def then_patch(module: ModuleType) -> None:
            execute(module)
            PATCHES[name](module)

        spec.loader.exec_module = then_patch  # type: ignore[method-assign]
        return spec


if sys.argv[0].endswith("train.py"):
    os.fsync = full_at_flush(os.fsync)  # type: ignore[assignment]
    sys.addaudithook(audit)
    sys.meta_path.insert(0, Patching())
    # in a process that was forked with them
    for name in sys.modules.keys() & PATCHES.keys():
        PATCHES[name](sys.modules[name])
