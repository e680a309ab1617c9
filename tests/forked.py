"""Commands in processes of their own, forked from one that has imported torch.

For tests that signal or kill a command, and for those of ranks and sweeps. A new Python
needs seconds to import torch, Lightning and timm; multiprocessing's forkserver imports
them once. test_terminal.py starts commands as a terminal does.
"""

import importlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from hydra.core.global_hydra import GlobalHydra
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch.distributed.elastic.multiprocessing.subprocess_handler import (
    subprocess_handler,
)

from unmask.distributed import forkserver as cells_forkserver
from unmask.distributed import processes
from unmask.distributed.ranks import rank_info

SOURCE, TESTS = Path(__file__).parents[1] / "src", Path(__file__).parent
PRELOADED = [
    "unmask.training.execute",
    "unmask.reports.paper.files",
    "unmask.exchange.read_weights",
    "hydra",
    "wandb",
    "matplotlib.pyplot",
    "forked",
]


@cache
def forkserver() -> ForkServerContext:
    """Return the context of the forkserver, which starts with its first process."""
    context = multiprocessing.get_context("forkserver")
    # it leaves out what it does not find
    assert all(map(find_spec, PRELOADED))
    context.set_forkserver_preload(PRELOADED)
    # Python 3.11's forkserver finds modules by this variable alone
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{SOURCE}{os.pathsep}{TESTS}"}
    with patch.dict(os.environ, own):
        context.Process(target=int).start()
    return context


class Started:
    """A running command, used as a Popen: pid, poll, wait, send_signal, kill.

    typed: Python, a script, its arguments. folder: takes the files stdout and stderr.
    """

    def __init__(
        self,
        typed: list[str],
        folder: Path,
        env: Mapping[str, str],
        cwd: Path | None = None,
    ) -> None:
        self.args = typed
        self.stdout, self.stderr = folder / "stdout", folder / "stderr"
        self.stdout.touch()
        self.stderr.touch()
        arguments = typed, env, cwd or Path.cwd(), (self.stdout, self.stderr)
        self._process = forkserver().Process(target=_become, args=arguments)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        # the exit code can be read once
        self._lock = threading.Lock()

    @property
    def said(self) -> str:
        """Return what is on stderr so far."""
        return self.stderr.read_text()

    def poll(self) -> int | None:
        with self._lock:
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code.

        Raises TimeoutExpired, after the whole group was killed, where it does not end.
        """
        wait([self._process.sentinel], timeout)
        if (code := self.poll()) is None:
            os.killpg(self.pid, signal.SIGKILL)
            assert timeout is not None
            raise subprocess.TimeoutExpired(
                self.args, timeout, self.stdout.read_bytes(), self.stderr.read_bytes()
            )
        return code

    def send_signal(self, number: int) -> None:
        # it may have ended
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkedPopen:
    """Subprocess.Popen for what a command of Started starts: ranks and cells.

    Forked from the command, whose child the process is, as ever.
    """

    def __init__(
        self,
        args: Sequence[str],
        env: Mapping[str, str],
        start_new_session: bool,
        stdout: Any = None,
        stderr: Any = None,
        preexec_fn: Callable[[], None] | None = None,
    ) -> None:
        assert start_new_session
        self.args = args
        streams = [
            os.devnull if stream == subprocess.DEVNULL else stream
            for stream in (stdout, stderr)
        ]
        sys.stdout.flush()
        sys.stderr.flush()
        self._process = multiprocessing.get_context("fork").Process(
            target=_become, args=(args, env, Path.cwd(), streams, preexec_fn)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        # as with Popen, the session is there
        while self.poll() is None and os.getpgid(self.pid) != self.pid:
            time.sleep(0.001)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    send_signal = Started.send_signal
    kill = Started.kill


class NoServer:
    """Start no forkserver for a sweep's cells: ForkedPopen starts them as warm."""

    is_ready = False

    def __init__(self, _: Sequence[str]) -> None: ...

    def wait(self, give_up: Sequence[object]) -> bool:
        return False


def _become(
    typed: Sequence[str],
    env: Mapping[str, str],
    cwd: Path,
    streams: Sequence[Any],
    prepare: Callable[[], None] | None = None,
) -> None:
    """Run the command, in the forked process, as Python would.

    streams: stdout and stderr, each a path or a file; None: as they are.
    """
    os.setsid()
    for number in processes.STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if prepare:
        prepare()
    for number, stream in enumerate(streams, start=1):
        if isinstance(stream, str | Path):
            os.dup2(os.open(stream, os.O_WRONLY), number)
        elif stream is not None:
            os.dup2(stream.fileno(), number)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    # Linux's, as in any new process: a loader's workers are forked
    multiprocessing.set_start_method("fork", force=True)
    # ranks are started by torch, cells by start_process
    cells_forkserver.ForkServer = NoServer  # type: ignore[misc, assignment]
    subprocess_handler.Popen = ForkedPopen  # type: ignore[misc, assignment]
    processes.subprocess = SimpleNamespace(Popen=ForkedPopen)  # type: ignore[assignment]
    # Lightning has looked when it was imported
    rank_zero_only.rank = int(env.get("RANK", 0))
    # what the command has found that it was forked from
    GlobalHydra.instance().clear()
    rank_info.cache_clear()
    sys.argv = [*typed[1:]]
    _customize(env.get("PYTHONPATH", ""))
    code = run_script(typed[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # the rest is for the process that it was forked from
    os._exit(code)


def _customize(folders: str) -> None:
    """Import sitecustomize, as Python's start does; a fork of a fork has it."""
    sys.path[1:1] = filter(None, folders.split(os.pathsep))
    with suppress(ModuleNotFoundError):
        importlib.import_module("sitecustomize")


def run_script(typed: Sequence[str]) -> int:
    """Run a script as Python does, and return its exit code."""
    sys.argv, sys.path[0] = [*typed], str(Path(typed[0]).parent)
    try:
        runpy.run_path(typed[0], run_name="__main__")
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
        return leaving.code if isinstance(leaving.code, int) else bool(leaving.code)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
