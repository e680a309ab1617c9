"""A loader's worker is killed, or hangs: the run ends in a line, and the same command goes on."""

import itertools
import multiprocessing
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

from small_runs import image_folder, run
from test_resume import assert_same
from unmask.callbacks.checkpointing import Checkpointing
from unmask.callbacks.watchdog import Watchdog
from unmask.commands.cli import user_message
from unmask.data.loading import views
from unmask.data.loading.workers import QuietLoader


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, ...]]:
    """A ledger with a run that a worker reads the images of from a disk, and its overrides."""
    root = tmp_path_factory.mktemp("disk")
    overrides = (
        "stages=[pretrain]",
        "checkpoint.every_steps=1",
        "data=image_folder",
        f"data.root={image_folder(root / 'images')}",
        "data.image_size=16",
        "data.patch_size=4",
        "data.in_memory=false",
        "data.num_workers=1",
        "pretrain.batch_size=4",
    )
    run(f"runs_dir={root / 'runs'}", *overrides)
    return root / "runs", overrides


def fault_of_worker(disk: tuple[Path, tuple[str, ...]], runs: Path, *more: str) -> str:
    """The line that the run ends with."""
    with pytest.raises(ChildProcessError) as raised:
        run(f"runs_dir={runs}", *disk[1], *more)
    (line,) = user_message(raised.value).splitlines()
    return line


def kill_workers(wait: float = 0) -> None:
    """wait: seconds, which the end of one interrupts."""
    for worker in multiprocessing.active_children():
        if worker.daemon:
            worker.kill()
    time.sleep(wait)


def test_a_killed_loader_worker_ends_the_run_in_a_line_and_the_same_command_goes_on(
    disk: tuple[Path, tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Checkpointing.on_train_batch_end

    def killing(self: Checkpointing, trainer: Any, *args: Any) -> None:
        original(self, trainer, *args)
        if trainer.global_step == 5:
            kill_workers()

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointing, "on_train_batch_end", killing)
        line = fault_of_worker(disk, tmp_path)
    assert (
        "a loader's worker was killed (so do systems whose memory is full) or gave no"
        " image for" in line
    )
    assert "the same command goes on from the last checkpoint" in line
    run(f"runs_dir={tmp_path}", *disk[1])
    assert_same(tmp_path, disk[0])


def test_the_end_of_a_worker_is_heard_in_a_second_stage_too() -> None:
    """Lightning ends a fit with the signal handlers that it found: torch's is gone then, which it sets once a process."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    fit = _SignalConnector(Trainer(logger=False, enable_checkpointing=False))
    loader = QuietLoader([1, 2, 3], num_workers=1)  # type: ignore[arg-type]
    try:
        fit.register_signal_handlers()
        list(loader)
        fit.teardown()
        assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
        batches = iter(loader)
        with pytest.raises(
            RuntimeError, match=r"DataLoader worker .* is killed by signal"
        ):
            kill_workers(wait=2)
        del batches
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_loader_worker_that_hangs_is_given_up(
    disk: tuple[Path, tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ignores being asked to leave, as all workers do, and would keep this process from ending."""
    original, opened = views.view, itertools.count()

    def hanging(*args: Any) -> torch.Tensor:
        if next(opened) > 30:  # each worker counts for itself
            time.sleep(600)
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(views, "view", hanging)
        # so long torch asks a worker to leave
        patch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.5)
        # it would end this process, were the first step slow
        patch.setattr(Watchdog, "_end", lambda self: None)
        line = fault_of_worker(disk, tmp_path, "trainer.timeout_minutes=0.02")
    assert "gave no image for trainer.timeout_minutes=0.02; look at the disk" in line
    assert not [worker for worker in multiprocessing.active_children() if worker.daemon]
    run(f"runs_dir={tmp_path}", *disk[1])
    assert_same(tmp_path, disk[0])
