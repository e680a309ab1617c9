"""A reader, a terminal or a disk that goes away takes its lines with it, not the run."""

import io
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from forked import Started
from small_runs import COARSE, command, environment, run
from unmask.distributed.processes import handle_stop_signals, restore_handlers
from unmask.storage.streams import lasting
from unmask.tasks.pretrain import Pretrain


def closed_pipe() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def closed_terminal() -> int:
    ours, theirs = os.openpty()
    os.close(ours)
    return theirs


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize("lost", [closed_pipe, closed_terminal, full_disk])
def test_a_stream_that_fails_is_told_once_and_dropped(
    lost: Callable[[], int], capfd: pytest.CaptureFixture
) -> None:
    number = lost()
    stream = lasting(os.fdopen(number, "w", closefd=False))
    console = Console(file=stream, force_terminal=True)
    for _ in range(3):
        console.print("step 1")
        print("step 2", file=stream, flush=True)
    (line,) = capfd.readouterr().err.splitlines()
    assert f"{number} cannot be written (" in line
    # what it leads to now, also for what this process starts
    assert os.path.realpath(f"/proc/self/fd/{number}") == os.devnull
    stream.close()
    os.close(number)


def test_a_stream_that_works_is_as_it_was(tmp_path: Path) -> None:
    file = (tmp_path / "log").open("w", encoding="latin-1", errors="replace")
    stream = lasting(file)
    assert (stream.encoding, stream.errors) == ("latin-1", "replace")
    assert stream.fileno() == file.fileno()
    assert not stream.isatty()
    print("caf\N{LATIN SMALL LETTER E WITH ACUTE}", file=stream, flush=True)
    assert (tmp_path / "log").read_bytes() == b"caf\xe9\n"


def test_what_is_not_buffered_arrives_at_once(tmp_path: Path) -> None:
    """As with python -u, and PYTHONUNBUFFERED."""
    raw = (tmp_path / "log").open("wb", buffering=0)
    pythons = io.TextIOWrapper(raw, write_through=True)  # type: ignore[arg-type]
    stream = lasting(pythons)
    stream.write("step 1")
    assert (tmp_path / "log").read_bytes() == b"step 1"


@pytest.mark.process
def test_a_run_whose_output_has_nowhere_to_go_is_finished(tmp_path: Path) -> None:
    (tmp_path / "stdout").symlink_to("/dev/full")
    typed = command(f"runs_dir={tmp_path}", "stages=[pretrain]", COARSE)
    started = Started(typed, tmp_path, environment())
    assert started.wait(timeout=100) == 0, started.said
    assert list(tmp_path.glob("pretrain/*/result.json"))
    (line,) = started.said.splitlines()
    assert line.startswith("stdout cannot be written (No space left on device)")


@pytest.mark.parametrize("code", [1, 75])
def test_an_exit_that_nobody_asked_for_is_a_failure_and_no_preemption(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(*_: object) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(Pretrain, "validation_step", leave)
    with pytest.raises(RuntimeError, match=f"exited .* with code {code}") as raised:
        run(f"runs_dir={tmp_path}", "stages=[pretrain]", COARSE)
    (path,) = tmp_path.glob("pretrain/*/error.txt")
    assert str(path) in raised.value.__notes__[0]
    assert "in leave" in path.read_text()


@pytest.mark.parametrize("is_ignored", [False, True])
def test_a_lost_connection_asks_a_run_to_leave_but_not_under_nohup(
    is_ignored: bool,
) -> None:
    received: list[int] = []
    before = signal.signal(
        signal.SIGHUP, signal.SIG_IGN if is_ignored else signal.SIG_DFL
    )
    handlers = handle_stop_signals(lambda number, _: received.append(number))
    try:
        os.kill(os.getpid(), signal.SIGHUP)
        assert received == ([] if is_ignored else [signal.SIGHUP])
    finally:
        restore_handlers(handlers)
        signal.signal(signal.SIGHUP, before)
