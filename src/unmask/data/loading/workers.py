"""The processes that read images for a loader.

Workers ignore signals, are noticed when they are lost, and are ended by force.
"""

import atexit
import gc
import multiprocessing

# imported before `atexit.register` below, since what is registered last is called
# first: workers must be killed before multiprocessing waits for them
import multiprocessing.util
import signal
import traceback
from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from unmask.data.loading.shared_memory import Slots, attach_worker
from unmask.distributed.processes import STOP_SIGNALS


class SignalBlockingLoader(DataLoader):
    """A DataLoader whose workers never receive the signals that ask a run to leave.

    A signal to the whole process group must not end a worker before `init_worker` has
    run in it. unpack: applied to each batch in this process.
    """

    unpack: Callable[[Any], Any] | None = None

    def __iter__(self) -> Any:
        _restore_sigchld_handler()
        # workers that are started here inherit the blocked signals
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            batches = super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return map(self.unpack, batches) if self.unpack else batches


def _restore_sigchld_handler() -> None:
    """Make torch notice workers that die.

    torch installs its handler once per process, and Lightning removes it after a fit.
    Without it, a worker that is killed in a second stage would be waited for until the
    loader's timeout.
    """
    handler = signal.getsignal(signal.SIGCHLD)
    if getattr(handler, "__module__", None) != signal_handling.__name__:
        # torch installs the handler again when the next workers start
        signal_handling._SIGCHLD_handler_set = False


def init_worker(slots: Slots | None, worker: int) -> None:
    """Let this worker outlive signals to the group, so that the main process can save.

    It is the DataLoader's worker_init_fn, and also attaches the worker to its slots of
    shared memory.
    """
    attach_worker(slots, worker)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # the garbage collector writes into every object it visits, which would copy the
    # pages that are inherited from the main process
    gc.freeze()


def is_lost_worker(error: BaseException) -> bool:
    """Return whether the error means that a worker died or hangs.

    torch says so in words only if it looks in time.
    """
    # the worker died while it handed a batch over
    if isinstance(error, EOFError | ConnectionError):
        return any(
            "torch/utils/data" in frame.filename
            for frame in traceback.extract_tb(error.__traceback__)
        )
    if not isinstance(error, RuntimeError):
        return False
    text = str(error)
    # errors that a worker raised itself carry its traceback
    is_reported = text.startswith(("DataLoader worker", "DataLoader timed out"))
    return is_reported and "Original Traceback" not in text


def kill_workers() -> None:
    """Kill the workers of all loaders of this process.

    A worker that hangs would not react to a polite request, and this process would wait
    for it.
    """
    # torch's handler would take these for lost workers, and raise
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
            child.join(timeout=5)
    signal.signal(signal.SIGCHLD, before)


# workers that something still refers to when Python ends (a traceback, say) would be
# asked in vain to end, and waited for
atexit.register(kill_workers)
