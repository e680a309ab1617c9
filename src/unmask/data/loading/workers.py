"""The processes that read images for a loader: deaf to signals, known when they are lost, ended by force."""

import atexit
import gc
import multiprocessing

# before `atexit` below: what is registered later is called earlier
import multiprocessing.util
import os
import signal
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from unmask.data.loading.shared_memory import Slots, use
from unmask.distributed.processes import SIGNALS


class QuietLoader(DataLoader):
    """Its workers are deaf from their first moment: until `quiet_worker` runs a signal to the group would end one."""

    def __iter__(self) -> Any:
        _hear_of_ends()
        # which those that are started here inherit
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _hear_of_ends() -> None:
    """Let torch hear of the end of a worker: it asks for that once a process, and Lightning takes it away after a fit.

    Without, a worker that was killed in a second stage would be waited for until the loader's time-out.
    """
    heard = signal.getsignal(signal.SIGCHLD)
    if getattr(heard, "__module__", None) != signal_handling.__name__:
        # torch asks again when the next workers start
        signal_handling._SIGCHLD_handler_set = False


def quiet_worker(slots: Slots | None, process: int) -> None:
    """Workers outlive signals to the group, so that the main process can still save."""
    use(slots, process)
    for sig in SIGNALS:
        signal.signal(sig, signal.SIG_IGN)
    # what is inherited: a collector that looks through it would make its pages this
    # process's own
    gc.freeze()


def lost_worker(error: BaseException) -> bool:
    """Whether the error is of a worker that died or hangs; torch has a word for it only where it looks in time."""
    text = str(error)
    # it died while it handed a batch over
    if isinstance(error, EOFError | ConnectionError):
        return any(
            "torch/utils/data" in frame.filename
            for frame in traceback.extract_tb(error.__traceback__)
        )
    said = text.startswith(("DataLoader worker", "DataLoader timed out"))
    return isinstance(error, RuntimeError) and said and "Original Traceback" not in text


def end_workers() -> None:
    """Of all loaders of this process: one that hangs ignores being asked, and this process would wait for it."""
    # torch would take these for lost ones, and raise
    heard = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
            child.join(timeout=5)
    signal.signal(signal.SIGCHLD, heard)


# those that something still holds when Python ends, a traceback say, would be asked in
# vain, and waited for
atexit.register(end_workers)


Item = TypeVar("Item")
Made = TypeVar("Made")


class Threads:
    """Of each process its own: one that is forked inherits what stands here, but no threads."""

    def __init__(self) -> None:
        self.pools: dict[tuple[int, int], ThreadPoolExecutor] = {}

    def map(
        self, function: Callable[[Item], Made], items: Sequence[Item], count: int
    ) -> list[Made]:
        """Of each item in order; threads take the next one as they are free."""
        if count == 1 or len(items) <= 1:
            return list(map(function, items))
        found: list[Any] = [None] * len(items)
        turns = iter(enumerate(items))

        def work() -> None:
            for k, item in turns:
                found[k] = function(item)

        for done in [self._pool(count).submit(work) for _ in range(count)]:
            done.result()
        return found

    def _pool(self, count: int) -> ThreadPoolExecutor:
        key = os.getpid(), count
        if key not in self.pools:
            self.pools[key] = ThreadPoolExecutor(count)
        return self.pools[key]

    def __getstate__(self) -> dict[str, Any]:
        """Threads stay where they are."""
        return {"pools": {}}
