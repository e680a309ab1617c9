"""A device whose memory is full: batches are cut once into twice as many parts, then the cell fails alone."""

import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

import train
from small_runs import ROOT, call, plan_for
from test_together import relative_distance, weights
from unmask.distributed.processes import PREEMPTED
from unmask.distributed.ranks import RankInfo
from unmask.stages.origin import Origin
from unmask.tasks.pretrain import Pretrain

CAPACITY = 600  # images that the small device's memory holds
SMALL_DEVICE_CODE = f"""
import sys
sys.path.insert(0, {str(ROOT / "src")!r})
import torch
from unmask.tasks.pretrain import Pretrain
original = Pretrain.training_step
def training_step(self, batch, batch_idx):
    if len(batch.ids_B) > 150:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    return original(self, batch, batch_idx)
Pretrain.training_step = training_step
"""


@pytest.fixture
def small_device(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of each micro-batch that reached the device."""
    original, sizes = Pretrain.training_step, []

    def training_step(self: Pretrain, batch: Any, batch_idx: int) -> Tensor:
        sizes.append(len(batch.ids_B))
        if sizes[-1] > CAPACITY:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Pretrain, "training_step", training_step)
    return sizes


class Restarted(BaseException):
    """The process has become another command."""


def restart_command(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> list[str]:
    """The command that a run with these overrides becomes."""

    def execv(path: str, typed: list[str]) -> None:
        raise Restarted(typed)

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr("sys.argv", ["src/train.py", *overrides])
    with pytest.raises(Restarted) as raised:
        train.run_stages(plan_for(*overrides), Console(file=io.StringIO()), Origin())
    return raised.value.args[0]


def test_a_batch_that_does_not_fit_is_cut_and_the_result_is_the_same(
    small_device: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    overrides = (f"runs_dir={tmp_path / 'cut'}", "stages=[pretrain]")
    command = restart_command(monkeypatch, *overrides)
    assert command[1:] == ["src/train.py", *overrides, "trainer.split=2"]
    assert "trainer.split=2" in capsys.readouterr().err
    train.run_stages(plan_for(*command[2:]), Console(file=io.StringIO()), Origin())
    assert small_device == [1000] + 24 * [500]
    monkeypatch.undo()
    train.run_stages(
        plan_for(f"runs_dir={tmp_path / 'whole'}", "stages=[pretrain]"),
        Console(file=io.StringIO()),
        Origin(),
    )
    assert (
        relative_distance(weights(tmp_path / "cut"), weights(tmp_path / "whole")) < 1e-4
    )


def test_a_signal_before_the_restart_ends_the_command(
    small_device: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Pretrain.training_step

    def signalled(self: Pretrain, *args: Any) -> Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args)

    monkeypatch.setattr(Pretrain, "training_step", signalled)
    monkeypatch.setattr(
        os, "execv", lambda *_: pytest.fail("the request was forgotten")
    )
    with pytest.raises(SystemExit) as leaving:
        train.run_stages(
            plan_for(f"runs_dir={tmp_path}", "stages=[pretrain]"),
            Console(file=io.StringIO()),
            Origin(),
        )
    assert leaving.value.code == PREEMPTED


def test_a_time_limit_goes_on_with_what_is_left_of_it(
    small_device: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "STARTED_AT", train.time.monotonic() - 60)
    *_, limit = restart_command(
        monkeypatch,
        f"runs_dir={tmp_path}",
        "stages=[pretrain]",
        "trainer.max_minutes=10",
    )
    assert 8.5 < float(limit.removeprefix("trainer.max_minutes=")) < 9


def test_a_cell_that_does_not_fit_even_then_fails_alone(
    small_device: list[int], tmp_path: Path
) -> None:
    with pytest.raises(torch.OutOfMemoryError) as raised:
        train.run_stages(
            plan_for(
                f"runs_dir={tmp_path}",
                "stages=[pretrain]",
                "pretrain.batch_size=2000",
                "trainer.split=2",
            ),
            Console(file=io.StringIO()),
            Origin(),
        )
    assert "set a smaller trainer.micro_batch (now the whole batch, in 2 parts)" in str(
        raised.value.__notes__
    )
    assert list(tmp_path.glob("pretrain/*/error.txt"))


@pytest.mark.parametrize(
    ("ranks", "by_launcher", "may_restart"),
    [
        (None, False, True),
        (RankInfo(0, 2, 0, 2), True, True),
        (RankInfo(0, 2, 0, 2), False, False),
    ],
    ids=["one process", "our launcher's", "torchrun's"],
)
def test_ranks_restart_only_where_our_launcher_started_them(
    ranks: RankInfo | None,
    by_launcher: bool,
    may_restart: bool,
    small_device: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (
        monkeypatch.setenv(train.STARTED_VARIABLE, "1")
        if by_launcher
        else monkeypatch.delenv(train.STARTED_VARIABLE, raising=False)
    )
    assert train.may_restart(plan_for(), ranks) == may_restart
    assert not train.may_restart(plan_for("trainer.split=2"), ranks), "once"


@pytest.mark.parametrize(
    ("split", "mixed", "parts"),
    [(1, 0, 1), (2, 0, 2), (3, 0, 4), (2, 0.8, 2), (16, 0.8, 4)],
)
def test_a_batch_is_cut_where_it_may_be(
    split: int, mixed: float, parts: int, tmp_path: Path
) -> None:
    """64 images, mixed in parts of 16: never into more parts than there are, never unevenly."""
    from unmask.training.micro_batches import num_micro_batches

    plan = plan_for(
        "stages=[scratch]",
        "labels=200",
        "finetune.batch_size=64",
        f"finetune.mixup={mixed}",
        f"trainer.split={split}",
    )
    assert num_micro_batches(plan.config, "scratch", 64) == parts


@pytest.mark.process
def test_a_process_becomes_the_same_command_with_smaller_parts(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SMALL_DEVICE_CODE)
    done = call(
        f"runs_dir={tmp_path / 'runs'}",
        "stages=[pretrain]",
        "pretrain.epochs=1",
        "pretrain.batch_size=250",
        env={"PYTHONPATH": str(tmp_path / "site")},
        process="new",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the memory was full") == 1


@pytest.mark.process
def test_two_processes_are_started_again_together(tmp_path: Path) -> None:
    """On devices that hold 150 images: shares of 200 become 100."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SMALL_DEVICE_CODE)
    runs = tmp_path / "runs"
    done = call(
        f"runs_dir={runs}",
        "stages=[pretrain]",
        "pretrain.epochs=1",
        "trainer.devices=2",
        "pretrain.batch_size=400",
        env={"PYTHONPATH": str(tmp_path / "site")},
        process="forked",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the memory was full") == 1
    (result,) = runs.glob("pretrain/*/result.json")
    assert json.loads(result.read_text())["processes"] == 2
