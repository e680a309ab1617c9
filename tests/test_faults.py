"""Faults on purpose, in this process: disks, clocks, file systems, signals. Nothing is lost or guessed."""

import errno
import itertools
import os
import random
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from small_runs import plan_for, run
from test_resume import Crash, assert_same, crash_at
from unmask.callbacks.checkpointing import PREEMPTED, Checkpointing
from unmask.commands.cli import user_message
from unmask.reports.run.page import write_page
from unmask.stages.ledger import LedgerError
from unmask.storage import checkpoints
from unmask.storage.atomic import atomic_write, write_text
from unmask.tasks.pretrain import Pretrain

PRETRAIN = ("stages=[pretrain]", "checkpoint.every_steps=1")
NOBODY, RENAME = 65534, Path.replace


@pytest.fixture(autouse=True)
def hangups() -> Iterator[None]:
    """Let SIGHUP be what it is in a terminal, also where tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ledger of a run of three epochs of four steps that nothing interrupts."""
    runs = tmp_path_factory.mktemp("undisturbed")
    run(f"runs_dir={runs}", *PRETRAIN)
    return runs


class FullDisk:
    """A file on a disk that takes half of what is written and no more."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __enter__(self) -> "FullDisk":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, content: bytes) -> int:
        self._file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_is_full_while_logging_ends_the_run_in_a_line_and_tears_nothing(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CSV copy cannot be written either, and its error does not hide the first one."""
    lines, original = itertools.count(), Path.open

    def filling(self: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
        file = original(self, mode, *more, **named)
        return (
            FullDisk(file)
            if (self.name, mode) == ("metrics.jsonl", "ab+") and next(lines) == 3
            else file
        )

    def no_space(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", filling)
        patch.setattr(pd.DataFrame, "to_csv", no_space)
        with pytest.raises(OSError, match="No space left") as raised:
            run(f"runs_dir={tmp_path}", *PRETRAIN)
    (line,) = user_message(raised.value).splitlines()
    assert "metrics.jsonl: No space left on device; " in line
    assert "type the same command again" in line
    run(f"runs_dir={tmp_path}", *PRETRAIN)
    assert_same(tmp_path, undisturbed)


@contextmanager
def another_user() -> Iterator[None]:
    """Run as a user without rights: root may write anywhere."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A ledger that only its owner may write, with one finished run and its page."""
    runs = Path(tempfile.mkdtemp())
    plan = plan_for(
        f"runs_dir={runs}", "stages=[scratch]", "labels=20", "finetune.epochs=1"
    )
    results = run(
        f"runs_dir={runs}", "stages=[scratch]", "labels=20", "finetune.epochs=1"
    )
    write_page(plan, results, "", refresh=True)
    runs.chmod(0o555)
    yield runs
    runs.chmod(0o755)
    shutil.rmtree(runs)


def test_a_ledger_that_may_not_be_written_is_read_and_nothing_new_begins(
    read_only: Path,
) -> None:
    finished = (
        f"runs_dir={read_only}",
        "stages=[scratch]",
        "labels=20",
        "finetune.epochs=1",
    )
    with another_user():
        results = run(*finished)
        assert write_page(plan_for(*finished), results, "", refresh=False).exists()
        with pytest.raises(
            LedgerError, match=r"cannot write in .*Permission denied; .* runs_dir=/path"
        ):
            run(f"runs_dir={read_only}", *PRETRAIN)


def rename_without_answer(self: Path, target: Path) -> Path:
    """Rename as a network file system may: done, the answer lost, tried again and refused."""
    RENAME(self, target)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))


def test_a_network_file_system_that_loses_its_answers_costs_nothing(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", rename_without_answer)
        run(f"runs_dir={tmp_path}", *PRETRAIN)
    assert_same(tmp_path, undisturbed)


def test_a_rename_that_was_not_made_is_an_error_and_the_old_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(self: Path, target: Path) -> Path:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    write_text(tmp_path / "file", "old")
    checkpoints.save({"step": 1}, tmp_path, 1)
    monkeypatch.setattr(Path, "replace", stale)
    with pytest.raises(OSError, match=r"cannot write .*file: Stale file handle"):
        write_text(tmp_path / "file", "new")
    with pytest.raises(
        OSError, match=r"Stale file handle .* it goes on at step=00000001.ckpt"
    ):
        checkpoints.save({"step": 2}, tmp_path, 2)
    assert (tmp_path / "file").read_text() == "old"
    assert not list(tmp_path.glob(".*.tmp"))


def test_two_machines_whose_processes_have_one_number_write_one_file_whole(
    tmp_path: Path,
) -> None:
    """Containers count processes from 1, each for itself."""
    with atomic_write(tmp_path / "page") as first:
        first.write(b"first, ")
        with atomic_write(tmp_path / "page") as second:
            second.write(b"second")
        assert (tmp_path / "page").read_text() == "second"
        first.write(b"and last")
    assert (tmp_path / "page").read_text() == "first, and last"


def test_no_clock_that_can_be_set_decides_anything(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It jumps by decades at each look: same weights, metrics log and checkpoints; plausible seconds."""
    jumps = random.Random(0)
    monkeypatch.setattr(time, "time", lambda: jumps.uniform(0, 4e9))
    overrides = (
        f"runs_dir={tmp_path}",
        "stages=[pretrain]",
        "checkpoint.every_minutes=1e-6",
    )
    with monkeypatch.context() as patch:
        crash_at(patch, 6)
        with pytest.raises(Crash):
            run(*overrides)
    newest = checkpoints.newest(next(tmp_path.glob("pretrain/*/checkpoints")))
    assert newest is not None
    assert newest.name == "step=00000006.ckpt"
    (result,) = run(*overrides)
    assert_same(tmp_path, undisturbed)
    assert 0 < result["seconds"] < 200


def with_signals(
    numbers: list[int], function: Callable[..., Any], at: int
) -> Callable[..., Any]:
    """The function, but at its call number `at` this process gets these signals."""
    calls = itertools.count(1)

    def signalled(*args: Any, **named: Any) -> Any:
        if next(calls) == at:
            for number in numbers:
                os.kill(os.getpid(), number)
        return function(*args, **named)

    return signalled


@pytest.mark.parametrize(
    ("owner", "name", "at", "numbers"),
    [
        (Pretrain, "__init__", 1, [signal.SIGTERM]),
        (Pretrain, "configure_optimizers", 1, [signal.SIGTERM]),
        (Pretrain, "validation_step", 2, [signal.SIGHUP]),
        (checkpoints, "save", 3, [signal.SIGTERM]),
        (checkpoints, "save", 3, [signal.SIGHUP, signal.SIGTERM]),
        (Checkpointing, "on_train_end", 1, [signal.SIGTERM]),
    ],
    ids=[
        "before training",
        "before the first step",
        "in validation",
        "while saving",
        "twice while saving",
        "at the end",
    ],
)
def test_a_run_preempted_at_any_moment_exits_with_75_and_goes_on(
    owner: Any,
    name: str,
    at: int,
    numbers: list[int],
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handlers = {
        number: signal.getsignal(number)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
    }
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, with_signals(numbers, getattr(owner, name), at))
        with pytest.raises(SystemExit) as raised:
            run(f"runs_dir={tmp_path}", *PRETRAIN)
    assert raised.value.code == PREEMPTED
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN, (
        "a process that is stopping ignores further signals"
    )
    for number, handler in handlers.items():
        signal.signal(number, handler)
    run(f"runs_dir={tmp_path}", *PRETRAIN)
    assert_same(tmp_path, undisturbed)
    assert {number: signal.getsignal(number) for number in handlers} == handlers, (
        "a run leaves no handler behind"
    )


def test_a_kill_at_any_moment_of_saving_leaves_a_whole_checkpoint(
    tmp_path: Path,
) -> None:
    moments, content = random.Random(0), {"weights": torch.randn(300_000)}
    checkpoints.save(content | {"step": 0}, tmp_path, 0)
    for kill in range(12):
        if (child := os.fork()) == 0:
            for step in itertools.count(1000 * kill + 1):
                checkpoints.save(content | {"step": step}, tmp_path, step)
        time.sleep(moments.uniform(0.005, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # none was even damaged
            newest = checkpoints.newest(tmp_path)
        assert newest is not None
        assert newest.name == f"step={checkpoints.load(newest)['step']:08d}.ckpt"


def test_pruning_keeps_the_only_whole_checkpoint(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoints.save({"step": step}, tmp_path, step)
    (tmp_path / "step=00000002.ckpt").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match=r"step=00000002.ckpt is damaged"):
        checkpoints.newest(tmp_path)
    checkpoints.keep_only_newest(tmp_path)
    assert checkpoints.newest(tmp_path) == tmp_path / "step=00000001.ckpt"


def test_a_run_whose_config_was_changed_is_another_and_takes_no_checkpoint_of_the_first(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        crash_at(patch, 5)
        with pytest.raises(Crash):
            run(f"runs_dir={tmp_path}", *PRETRAIN)
    (first,) = tmp_path.glob("pretrain/*")
    with monkeypatch.context() as patch:
        crash_at(patch, 1)
        with pytest.raises(Crash):
            run(f"runs_dir={tmp_path}", *PRETRAIN, "pretrain.base_lr=1e-3")
    (other,) = {*tmp_path.glob("pretrain/*")} - {first}
    shutil.rmtree(other / "checkpoints")
    shutil.copytree(first / "checkpoints", other / "checkpoints")
    with pytest.raises(
        ValueError,
        match=rf"holds a checkpoint of the run {first.name}, and this run is {other.name}",
    ):
        run(f"runs_dir={tmp_path}", *PRETRAIN, "pretrain.base_lr=1e-3")
    run(f"runs_dir={tmp_path}", *PRETRAIN)
    shutil.rmtree(other)
    assert_same(tmp_path, undisturbed)
