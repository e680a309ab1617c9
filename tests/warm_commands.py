"""The commands in processes forked from one that has already imported what they import.

Starting is most of the time of a small command: seconds for torch, Lightning and timm, a hundred times over. What such a
command starts is warm as well. Those of which Python itself reads the environment start cold (small_runs.call).
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext
from pathlib import Path
from unittest.mock import patch

from lightning.fabric.utilities.rank_zero import rank_zero_only

from warm_children import SOURCE, open_nursery, show

IMPORTED = [
    "unmask.training.execute",
    "unmask.reports.paper.page",
    "unmask.exchange.read_weights",
    "hydra",
    "wandb",
    "matplotlib.pyplot",
    "warm_up",
]


class Started:
    """A running command with what a Popen has: pid, poll, wait, send_signal, kill; what it prints goes to files."""

    def __init__(
        self,
        command: list[str],
        folder: Path,
        env: dict[str, str],
        cwd: Path | None = None,
    ) -> None:
        """`command` is Python, a script of src/ or tests/, its arguments; `folder` takes its output."""
        self.stdout, self.stderr = folder / "stdout", folder / "stderr"
        self.stdout.touch()
        self._process = server().Process(
            target=_run,
            args=(
                command[1:],
                env,
                str(cwd or Path.cwd()),
                str(self.stdout),
                str(self.stderr),
            ),
        )
        self._process.start()
        assert self._process.pid is not None
        self._lock = threading.Lock()
        self.pid, self.args = self._process.pid, command

    @property
    def said(self) -> str:
        """On stderr, so far."""
        return self.stderr.read_text()

    def poll(self) -> int | None:
        with self._lock:  # the code can be read once
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired, with the process killed, where it does not end."""
        wait([self._process.sentinel], timeout)
        if (code := self.poll()) is None:
            os.killpg(self.pid, signal.SIGKILL)  # the children too
            wait([self._process.sentinel])
            assert timeout is not None
            raise subprocess.TimeoutExpired(
                self.args, timeout, self.stdout.read_bytes(), self.stderr.read_bytes()
            )
        return code

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):  # it has ended
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(
    argv: list[str], env: dict[str, str], cwd: str, stdout: str, stderr: str
) -> None:
    """In the forked process: become the command."""
    for path, stream in ((stdout, sys.stdout), (stderr, sys.stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream.fileno())
    os.setsid()
    open_nursery(_become)
    raise SystemExit(_become(argv, env, cwd))


def _become(argv: list[str], env: dict[str, str], cwd: str) -> int:
    """Run a script, or a module by -m, as Python does, but with src/ alone before its own path; the exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server ignores it
    os.environ.clear()
    os.environ.update(env)
    show(argv, env)
    os.chdir(cwd)
    sys.argv, sys.path[0] = argv, str(SOURCE)
    # Linux's default, which a loader's workers are started by
    multiprocessing.set_start_method("fork", force=True)
    os.execv = _become_another  # type: ignore[assignment]
    rank_zero_only.rank = int(env.get("RANK", 0))  # Lightning looks when it is imported
    code = 0
    try:
        paths = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
        if spec := PathFinder.find_spec("sitecustomize", paths):
            assert spec.loader is not None
            # Python imports it as it starts
            spec.loader.exec_module(module_from_spec(spec))
        if argv[0] == "-m":
            sys.argv = argv[1:]
            runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as leaving:
        code = (
            leaving.code
            if isinstance(leaving.code, int)
            else int(leaving.code is not None)
        )
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()  # a forked process leaves without them
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _become_another(path: str, typed: list[str]) -> None:
    """Start it and wait: what is warm cannot become another. Signals are not passed on; test_memory_full has a real one."""
    os._exit(subprocess.Popen(typed).wait() & 0xFF)


@cache
def server() -> ForkServerContext:
    """Starts processes that have imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    paths = os.pathsep.join([str(SOURCE), str(Path(__file__).parent)])
    # for what each child shows
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "UNMASK_ROOM": 8192 * " "}
    with patch.dict(os.environ, own):  # the server's, as it starts
        forkserver.ensure_running()
    return context
