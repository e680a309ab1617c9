"""Start commands warm: forked from a process that has imported what they need.

By multiprocessing's forkserver. What it forks is a process as subprocess starts one,
with a session, an environment, signals and an exit code of its own.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, forkserver
from pathlib import Path

from unmask.distributed.processes import CHILD_VARIABLE, PREEMPTED, STOP_SIGNALS

# in the server, which imports this module, and in what it forks: the server
SERVER_PID = os.getpid()
# multiprocessing's exit code of a process whose server has ended before it
LOST_CODE = 255
POLL_SECONDS = 0.1
# states in /proc/PID/stat: zombie, dead
ENDED = ("Z", "X")


class ForkServer:
    """A process that imports modules in the background, then forks commands.

    It ends with this process, and what it has forked then gets SIGTERM.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        """Start the server; the modules are imported in that order."""
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(modules))
        # multiprocessing reads exit codes while it starts a process, and can do so once
        self._lock = threading.Lock()
        self._has_answered = threading.Event()
        self._has_failed = False
        # Python 3.11's server finds this project by PYTHONPATH, where it is not
        # installed: the sweeper (hydra_plugins.experiment_sweeper) has set it
        with _blocked_signals():
            forkserver.ensure_running()
        threading.Thread(target=self._wait_for_answer, daemon=True).start()

    @property
    def is_ready(self) -> bool:
        """Whether it has imported its modules."""
        return self._has_answered.is_set() and not self._has_failed

    def wait(self, give_up: Sequence[object]) -> bool:
        """Wait until it is ready; return whether it is, at once where `give_up` fills.

        False where it has failed, too: a module may end the process that imports it.
        """
        while not self._has_answered.wait(POLL_SECONDS) and not give_up:
            pass
        return self.is_ready

    def start(self, command: Sequence[str], env: dict[str, str]) -> "ForkedProcess":
        """Start a command, which is Python, a script and its arguments.

        It works in this process's folder. Raises OSError or EOFError where the server
        was killed.
        """
        process = self._context.Process(
            target=_become, args=(list(command), env, Path.cwd())
        )
        # where the server was killed, this starts another
        with self._lock, _blocked_signals():
            process.start()
        return ForkedProcess(process, self._lock)

    def _wait_for_answer(self) -> None:
        """Fork a process that does nothing: that is done when all is imported."""
        try:
            self._context.Process(target=int).start()
        except (OSError, EOFError):
            self._has_failed = True
        self._has_answered.set()


class ForkedProcess:
    """A running command, used as a subprocess.Popen."""

    def __init__(
        self, process: multiprocessing.process.BaseProcess, lock: threading.Lock
    ) -> None:
        assert process.pid is not None
        self.pid = process.pid
        self._process = process
        self._lock = lock
        self._has_ended = False

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if not self._has_ended:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self) -> int:
        """Return the exit code, or minus the signal that killed the process."""
        connection.wait([self._process.sentinel])
        with self._lock:
            code = self._process.exitcode
        assert code is not None
        if code == LOST_CODE:
            # the server was killed; Linux has asked the process to save and leave
            code = PREEMPTED
            while _is_running(self.pid):
                time.sleep(POLL_SECONDS)
        self._has_ended = True
        return code


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Block STOP_SIGNALS within: what is started there inherits that.

    The server shares the terminal, and what ends it would lose all exit codes. What it
    forks gets signals that come meanwhile when it can answer them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _is_running(pid: int) -> bool:
    """Return whether a process has not ended; a zombie has, be it reaped or not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    # after the name in brackets, which may have any characters
    return stat.rpartition(")")[2].split()[0] not in ENDED


def _become(command: list[str], env: dict[str, str], folder: Path) -> None:
    """Run the command, in the forked process, as a new Python would."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env | {CHILD_VARIABLE: str(SERVER_PID)})
    # multiprocessing has set the one that it came by
    multiprocessing.set_start_method(None, force=True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    sys.argv = command[1:]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except Exception:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
    except SystemExit as error:
        # the system keeps eight bits: sys.exit(-1) ends with 255, too
        if isinstance(error.code, int) and error.code % 256 == LOST_CODE:
            sys.exit(1)
        raise
    finally:
        # before Python 3.14, multiprocessing leaves them out
        atexit._run_exitfuncs()
