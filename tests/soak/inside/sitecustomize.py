"""Faults from within: each Python process that the soak starts imports this file first.

The soak requests a fault by a file of its name in UNMASK_SOAK_REQUESTS. The process
that renames the file first has claimed the request and does the fault, once. The new
name ends in the id of the claimer's parent: the launcher of its cell.
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

REQUESTS = os.environ["UNMASK_SOAK_REQUESTS"]
LEDGER = os.environ["UNMASK_SOAK_LEDGER"]
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGING_EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
# seconds
CLOCK_JUMP = 86_400.0


def claim(fault: str) -> bool:
    """Claim the request for a fault; False where there is none."""
    try:
        os.rename(f"{REQUESTS}/{fault}", f"{REQUESTS}/{fault}.{os.getppid()}")
    # there is no request, or another process was quicker
    except OSError:
        return False
    return True


def make_error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)


def audit(event: str, details: tuple[Any, ...]) -> None:
    """Raise errors in the audited call: a read-only ledger, or a lost rename."""
    if event != "open" and event not in CHANGING_EVENTS:
        return
    path = str(details[1] if event == "os.rename" else details[0])
    if not path.startswith(LEDGER):
        return
    if (event != "open" or details[2] & WRITE_FLAGS) and os.path.exists(
        f"{REQUESTS}/ledger read-only"
    ):
        os.close(os.open(f"{REQUESTS}/ledger read-only.{os.getppid()}", os.O_CREAT))
        raise make_error(errno.EROFS, path)
    if event == "os.rename" and claim("rename lost"):
        raise make_error(errno.EIO, path)


def fail_at_fsync(flush: Callable[[int], None]) -> Callable[[int], None]:
    def fsync(file: Any) -> None:
        number = file if isinstance(file, int) else file.fileno()
        if ".ckpt." in os.readlink(f"/proc/self/fd/{number}") and claim(
            "disk full while saving"
        ):
            os.ftruncate(number, os.fstat(number).st_size // 2)
            raise make_error(errno.ENOSPC, "")
        flush(file)

    return fsync


def patch_metrics(metrics: ModuleType) -> None:
    append = metrics.append_row

    def append_half(path: Any, row: dict[str, Any]) -> None:
        if claim("disk full while logging"):
            with path.open("ab") as file:
                file.write(b'{"step": ')
            raise make_error(errno.ENOSPC, str(path))
        append(path, row)

    metrics.append_row = append_half  # type: ignore[attr-defined]


def patch_checkpointing(checkpointing: ModuleType) -> None:
    original = checkpointing.Checkpointing.on_train_batch_end
    real_time = time.time

    def jump(self: Any, *args: Any, **named: Any) -> None:
        for fault, seconds in (
            ("clock forward", CLOCK_JUMP),
            ("clock back", -CLOCK_JUMP),
        ):
            if claim(fault):
                time.time = lambda seconds=seconds: real_time() + seconds
        original(self, *args, **named)

    checkpointing.Checkpointing.on_train_batch_end = jump


def patch_task(class_name: str) -> Callable[[ModuleType], None]:
    def patch(module: ModuleType) -> None:
        task = getattr(module, class_name)
        step = task.training_step

        def faulty(self: Any, batch: Any, batch_idx: int) -> Any:
            # also in all other ranks that this cell's launcher starts, when it tries
            # again with smaller micro-batches
            if claim("out of memory") or os.path.exists(
                f"{REQUESTS}/out of memory.{os.getppid()}"
            ):
                import torch

                raise torch.OutOfMemoryError("by the soak: can't allocate memory")
            loss = step(self, batch, batch_idx)
            return loss * float("nan") if claim("loss is NaN") else loss

        task.training_step = faulty

    return patch


PATCHES = {
    "unmask.callbacks.metrics": patch_metrics,
    "unmask.callbacks.checkpointing": patch_checkpointing,
    "unmask.tasks.pretrain": patch_task("Pretrain"),
    "unmask.tasks.classify": patch_task("Classify"),
}


class PatchingFinder(MetaPathFinder):
    """Find modules as the other finders do, and patch them after their import."""

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
    os.fsync = fail_at_fsync(os.fsync)  # type: ignore[assignment]
    sys.addaudithook(audit)
    sys.meta_path.insert(0, PatchingFinder())
    # a process that was forked has them already
    for name in sys.modules.keys() & PATCHES.keys():
        PATCHES[name](sys.modules[name])
