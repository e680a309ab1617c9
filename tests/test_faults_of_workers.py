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
from unmask.data.loading.workers import SignalBlockingLoader


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, ...]]:
    """The ledger of an undisturbed run whose images a worker reads from disk, and its overrides."""
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


def worker_fault(disk: tuple[Path, tuple[str, ...]], runs: Path, *more: str) -> str:
    """Run, and return the line that the run ends with."""
    with pytest.raises(ChildProcessError) as raised:
        run(f"runs_dir={runs}", *disk[1], *more)
    (line,) = user_message(raised.value).splitlines()
    return line


def kill_workers(wait: float = 0) -> None:
    """Kill all loader workers; wait: seconds, which the death of one interrupts."""
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
        line = worker_fault(disk, tmp_path)
    assert "a loader's worker was killed" in line
    assert "data.num_workers" in line
    assert "the same command goes on from the last checkpoint" in line
    run(f"runs_dir={tmp_path}", *disk[1])
    assert_same(tmp_path, disk[0])


def test_a_killed_worker_is_noticed_in_a_second_stage_too() -> None:
    """Lightning restores the signal handlers that it found, and torch sets its own once a process: it is gone then."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    fit = _SignalConnector(Trainer(logger=False, enable_checkpointing=False))
    loader = SignalBlockingLoader([1, 2, 3], num_workers=1)  # type: ignore[arg-type]
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
    """It ignores SIGTERM, as all workers do, and would keep this process from ending."""
    original, opened = views.decode_view, itertools.count()

    def hanging(*args: Any) -> torch.Tensor:
        if next(opened) > 30:  # each worker counts for itself
            time.sleep(600)
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(views, "decode_view", hanging)
        # seconds that torch waits for a worker that it asked to stop
        patch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.5)
        # the watchdog would end this process if the first step were slow
        patch.setattr(Watchdog, "_end_process", lambda self: None)
        line = worker_fault(disk, tmp_path, "trainer.timeout_minutes=0.02")
    assert "gave no image for trainer.timeout_minutes=0.02; " in line
    assert not [worker for worker in multiprocessing.active_children() if worker.daemon]
    run(f"runs_dir={tmp_path}", *disk[1])
    assert_same(tmp_path, disk[0])
