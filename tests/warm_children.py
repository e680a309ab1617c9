"""What a warm command starts (a sweep's cells, a run's processes, a report), forked too from one that has imported all.

A nursery is forked off before the command begins, so that what it forks later knows nothing of the command. Each child
is the command's own, by the kernel too: it is asked, killed and waited for as any other, and hears of its parent's end.
"""

import ctypes
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

SOURCE = Path(__file__).parent.parent / "src"
OURS = SOURCE, Path(__file__).parent
NAME = "nursery"  # of the process, in /proc
PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 15, 36
# argv, environment, working directory to the exit code
Become = Callable[[list[str], dict[str, str], str], int]


class WarmPopen(subprocess.Popen):
    """A Popen to which what is `_warm` comes from the nursery; all else starts as ever."""

    nursery: socket.socket

    def _execute_child(
        self,
        args: Any,
        executable: Any,
        preexec_fn: Any,
        close_fds: Any,
        pass_fds: Any,
        cwd: Any,
        env: Any,
        startupinfo: Any,
        creationflags: Any,
        shell: Any,
        p2cread: int,
        p2cwrite: int,
        c2pread: int,
        c2pwrite: int,
        errread: int,
        errwrite: int,
        *rest: Any,
    ) -> None:
        given = list(args) if isinstance(args, list | tuple) else []
        if given[1:2] == ["-u"]:
            del given[1]
        if given[:1] != [sys.executable] or not _warm(given[1:]):
            before = (
                executable,
                preexec_fn,
                close_fds,
                pass_fds,
                cwd,
                env,
                startupinfo,
                creationflags,
                shell,
            )
            super()._execute_child(
                args,
                *before,
                p2cread,
                p2cwrite,
                c2pread,
                c2pwrite,
                errread,
                errwrite,
                *rest,
            )  # type: ignore[misc]
            return
        wanted = (
            given[1:],
            dict(os.environ if env is None else env),
            str(cwd or Path.cwd()),
            preexec_fn,
        )
        streams = [
            fd if fd != -1 else inherited
            for inherited, fd in ((1, c2pwrite), (2, errwrite))
        ]
        sys.stdout.flush()
        socket.send_fds(self.nursery, [pickle.dumps(wanted)], streams)
        self.pid, self._child_created = int(self.nursery.recv(32)), True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]


def _warm(argv: list[str]) -> bool:
    """Our scripts, and what submitit starts for a job."""
    return Path(argv[0]).parent in OURS or (
        argv[0] == "-m" and argv[1].startswith("submitit.")
    )


def open_nursery(become: Become) -> None:
    """From here on this process's children are warm."""
    _control(PR_SET_CHILD_SUBREAPER, 1)
    command = os.getpid()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        _control(PR_SET_NAME, NAME.encode())
        _serve(theirs, command, become)
    theirs.close()
    WarmPopen.nursery = ours
    subprocess.Popen = WarmPopen  # type: ignore[misc]


def _serve(asked: socket.socket, command: int, become: Become) -> NoReturn:
    """Fork whatever is asked for, until the command is gone."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    while True:
        content, streams, *_ = socket.recv_fds(asked, 1 << 20, 2)
        if not content:
            os._exit(0)
        # its end makes the child an orphan, which Linux gives to the command
        if (between := os.fork()) == 0:
            if os.fork() == 0:
                while os.getppid() != command:
                    time.sleep(0.0005)
                asked.send(str(os.getpid()).encode())
                asked.close()
                _begin(pickle.loads(content), streams, become)
            os._exit(0)
        os.waitpid(between, 0)
        for stream in streams:
            os.close(stream)


def _begin(wanted: tuple[Any, ...], streams: list[int], become: Become) -> NoReturn:
    argv, env, cwd, before = wanted
    os.setsid()
    _control(PR_SET_NAME, b"python")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    if before:
        before()
    for stream, place in zip(streams, (1, 2), strict=True):
        os.dup2(stream, place)
        os.close(stream)
    open_nursery(become)  # a cell may start several
    os._exit(become(argv, env, cwd))


def show(argv: list[str], env: dict[str, str]) -> None:
    """Let /proc tell this process's command and environment: written over those that the server was started with."""
    places = [
        int(place)
        for place in (
            Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:49]
        )
    ]
    command, environ = (
        [sys.executable, *argv],
        [f"{key}={value}" for key, value in env.items()],
    )
    written = [
        "\0".join(parts).encode(errors="surrogateescape")
        for parts in (command, environ)
    ]
    assert len(written[1]) < places[3] - places[2], (
        "an environment that is cut hides whose process it is"
    )
    for start, end, content in zip(places[::2], places[1::2], written, strict=True):
        room = end - start
        ctypes.memmove(start, content[: room - 1].ljust(room, b"\0"), room)


def children(pid: int) -> list[int]:
    """The processes that this one started and that still run."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child)
        for child in found
        if Path(f"/proc/{child}/comm").read_text().strip() != NAME
    ]


def _control(option: int, value: Any) -> None:
    ctypes.CDLL(None).prctl(option, value)
