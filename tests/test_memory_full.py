"""A device whose memory is full: every batch is cut once, then the cell fails alone. (test_plan_memory tells how much it takes.)"""

import io
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra.types import RunMode
from rich.console import Console
from torch import Tensor

import train
from small_runs import ROOT, call, plan_for
from test_together import apart, weights
from unmask.commands.cli import CellError
from unmask.distributed.processes import MEMORY_FULL, PREEMPTED
from unmask.distributed.ranks import RankInfo
from unmask.tasks.pretrain import Pretrain

HELD = 600  # images that the planted device's memory holds
PLANTED = f"""
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
    """Images of each micro-batch that came."""
    original, came = Pretrain.training_step, []

    def training_step(self: Pretrain, batch: Any, batch_idx: int) -> Tensor:
        came.append(len(batch.ids_B))
        if came[-1] > HELD:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Pretrain, "training_step", training_step)
    monkeypatch.setattr(
        train.HydraConfig, "get", lambda: SimpleNamespace(mode=RunMode.RUN)
    )
    return came


class Begun(BaseException):
    """The process has become another command."""


def begun(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> list[str]:
    """The command that a run with these overrides becomes."""

    def execv(path: str, typed: list[str]) -> None:
        raise Begun(typed)

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr("sys.argv", ["src/train.py", *overrides])
    with pytest.raises(Begun) as raised:
        train.work(plan_for(*overrides), Console(file=io.StringIO()))
    return raised.value.args[0]


def test_a_batch_that_does_not_fit_is_cut_and_the_result_is_the_same(
    small_device: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    overrides = (f"runs_dir={tmp_path / 'cut'}", "stages=[pretrain]")
    command = begun(monkeypatch, *overrides)
    assert command[1:] == ["src/train.py", *overrides, "trainer.split=2"]
    assert (
        "the memory was full: going on with every batch in twice as many parts"
        in capsys.readouterr().err
    )
    train.work(plan_for(*command[2:]), Console(file=io.StringIO()))
    assert small_device == [1000] + 24 * [500]
    monkeypatch.undo()
    train.work(
        plan_for(f"runs_dir={tmp_path / 'whole'}", "stages=[pretrain]"),
        Console(file=io.StringIO()),
    )
    assert apart(weights(tmp_path / "cut"), weights(tmp_path / "whole")) < 1e-4


def test_who_was_asked_to_leave_meanwhile_leaves(
    small_device: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Pretrain.training_step

    def asked(self: Pretrain, *args: Any) -> Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args)

    monkeypatch.setattr(Pretrain, "training_step", asked)
    monkeypatch.setattr(
        os, "execv", lambda *_: pytest.fail("the request was forgotten")
    )
    with pytest.raises(SystemExit) as leaving:
        train.work(
            plan_for(f"runs_dir={tmp_path}", "stages=[pretrain]"),
            Console(file=io.StringIO()),
        )
    assert leaving.value.code == PREEMPTED


def test_a_time_limit_goes_on_with_what_is_left_of_it(
    small_device: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "BEGUN", train.time.monotonic() - 60)
    *_, limit = begun(
        monkeypatch,
        f"runs_dir={tmp_path}",
        "stages=[pretrain]",
        "trainer.max_minutes=10",
    )
    assert 8.5 < float(limit.removeprefix("trainer.max_minutes=")) < 9


def test_a_cell_of_several_processes_within_a_sweeps_process_fails_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        train.HydraConfig,
        "get",
        lambda: SimpleNamespace(
            mode=RunMode.MULTIRUN, overrides=SimpleNamespace(task=[])
        ),
    )
    monkeypatch.setattr(train, "Launcher", lambda *_: lambda: MEMORY_FULL)
    monkeypatch.setattr(
        os, "execv", lambda *_: pytest.fail("the sweep was begun again")
    )
    with pytest.raises(
        CellError,
        match=(
            r"ended with 76; their device's memory is full: set a smaller"
            r" trainer.micro_batch"
        ),
    ):
        train.work(
            plan_for("stages=[pretrain]", "trainer.devices=2"),
            Console(file=io.StringIO()),
        )


def test_what_does_not_fit_then_fails_alone(
    small_device: list[int], tmp_path: Path
) -> None:
    with pytest.raises(torch.OutOfMemoryError) as raised:
        train.work(
            plan_for(
                f"runs_dir={tmp_path}",
                "stages=[pretrain]",
                "pretrain.batch_size=2000",
                "trainer.split=2",
            ),
            Console(file=io.StringIO()),
        )
    assert "set a smaller trainer.micro_batch (now the whole batch, in 2 parts)" in str(
        raised.value.__notes__
    )
    assert list(tmp_path.glob("pretrain/*/error.txt"))


@pytest.mark.parametrize(
    ("started", "by_us", "again"),
    [
        (None, False, True),
        (RankInfo(0, 2, 0, 2), True, True),
        (RankInfo(0, 2, 0, 2), False, False),
    ],
    ids=["alone", "one of ours", "one of torchrun's"],
)
def test_only_who_started_a_process_starts_it_again(
    started: RankInfo | None,
    by_us: bool,
    again: bool,
    small_device: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (
        monkeypatch.setenv(train.STARTED, "1")
        if by_us
        else monkeypatch.delenv(train.STARTED, raising=False)
    )
    assert train.can_start_again(plan_for(), started) == again
    assert not train.can_start_again(plan_for("trainer.split=2"), started), "once"


def test_a_cell_that_is_a_function_of_the_sweeps_process_cannot_become_another(
    small_device: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        train.HydraConfig, "get", lambda: SimpleNamespace(mode=RunMode.MULTIRUN)
    )
    assert not train.can_start_again(plan_for(), None)


@pytest.mark.parametrize(
    ("split", "mixed", "parts"),
    [(1, 0, 1), (2, 0, 2), (3, 0, 4), (2, 0.8, 2), (16, 0.8, 4)],
)
def test_a_batch_is_cut_where_it_may_be(
    split: int, mixed: float, parts: int, tmp_path: Path
) -> None:
    """64 images, mixed in parts of 16: never into more parts than there are, never unevenly."""
    from unmask.stages.ledger import StageFolder
    from unmask.training.execute import Run
    from unmask.training.stages import StageWork

    plan = plan_for(
        "stages=[scratch]",
        "labels=200",
        "finetune.batch_size=64",
        f"finetune.mixup={mixed}",
        f"trainer.split={split}",
    )
    work = StageWork(
        Run(plan, Console(file=io.StringIO())),
        plan.stages[0],
        StageFolder(tmp_path, plan.stages[0]),
    )
    assert work.fit.accumulate(64) == parts


@pytest.mark.process
def test_a_process_becomes_the_same_command_with_smaller_parts(tmp_path: Path) -> None:
    """By a Python that starts anew: what is warm only pretends to become another."""
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "sitecustomize.py").write_text(PLANTED)
    done = call(
        f"runs_dir={tmp_path / 'runs'}",
        "stages=[pretrain]",
        "pretrain.epochs=1",
        "pretrain.batch_size=250",
        env={"PYTHONPATH": str(tmp_path / "planted")},
        cold=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the memory was full") == 1


@pytest.mark.process
def test_two_processes_are_started_again_together(tmp_path: Path) -> None:
    """Of devices that hold 150 images: shares of 200 become 100."""
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "sitecustomize.py").write_text(PLANTED)
    runs = tmp_path / "runs"
    done = call(
        f"runs_dir={runs}",
        "stages=[pretrain]",
        "pretrain.epochs=1",
        "trainer.devices=2",
        "pretrain.batch_size=400",
        env={"PYTHONPATH": str(tmp_path / "planted")},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the memory was full") == 1
    (result,) = runs.glob("pretrain/*/result.json")
    assert json.loads(result.read_text())["processes"] == 2
