"""Preemption in a SLURM job: after saving, one task asks once for the job to be run again, and only for SLURM's signals."""

import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest

from small_runs import ROOT, command, environment, raw_config, trained_so_far
from test_ranks import step
from unmask.config.checks import check
from unmask.distributed import processes, slurm
from unmask.distributed.ranks import RankInfo
from warm_commands import Started

ARRAY = {"SLURM_JOB_ID": "812", "SLURM_ARRAY_JOB_ID": "812", "SLURM_ARRAY_TASK_ID": "3"}
USR1, USR2, TERM, INT = signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT


def scontrol(folder: Path, refusal: str = "") -> Path:
    """A program of that name that notes what it was told."""
    folder.mkdir(exist_ok=True)
    end = f'echo "{refusal}" >&2; exit 1' if refusal else "exit 0"
    (folder / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {folder}/said\n{end}\n')
    (folder / "scontrol").chmod(0o755)
    return folder


def said(folder: Path) -> list[str]:
    return (
        (folder / "said").read_text().splitlines() if (folder / "said").exists() else []
    )


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The seconds that are slept."""
    slept: list[float] = []
    monkeypatch.setattr(slurm, "time", SimpleNamespace(sleep=slept.append))
    yield slept
    processes.received_signals.clear()


@pytest.mark.parametrize(
    ("heard", "wanted", "more", "asks"),
    [
        ([USR1], True, {}, ["requeue 812_3"]),
        ([USR2, TERM], True, {}, ["requeue 812_3"]),
        (
            [USR1],
            True,
            {"SLURM_ARRAY_TASK_ID": "", "SLURM_ARRAY_JOB_ID": ""},
            ["requeue 812"],
        ),
        ([TERM], True, {}, []),
        ([INT], True, {}, []),
        ([TERM, USR1], True, {}, []),
        ([], True, {}, []),
        ([USR1], False, {}, []),
        ([USR1], True, {"UNMASK_CHILD": "1"}, []),
        ([USR1], True, {"SUBMITIT_EXECUTOR": "slurm"}, []),
    ],
)
def test_only_the_first_task_asks_and_only_after_slurms_signals(
    heard: list[int],
    wanted: bool,
    more: dict[str, str],
    asks: list[str],
    tmp_path: Path,
    slow: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processes.received_signals[:] = heard
    path = f"{scontrol(tmp_path)}:{os.environ['PATH']}"
    with patch.dict(os.environ, {**ARRAY, "PATH": path, **more}):
        for place in (RankInfo(0, 2, 0, 1), RankInfo(1, 2, 0, 1)):
            monkeypatch.setattr(slurm, "rank_info", lambda place=place: place)
            slurm.requeue(wanted)
    assert said(tmp_path) == asks
    assert slow == ([slurm.HEAD_START] if asks else []), (
        "others leave later: where that ends all tasks, not before"
    )


def test_outside_of_slurm_nobody_is_asked(tmp_path: Path, slow: list[float]) -> None:
    processes.received_signals[:] = [USR1]
    with patch.dict(os.environ, {"PATH": str(scontrol(tmp_path))}, clear=True):
        slurm.requeue(True)
    assert not said(tmp_path)


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (None, "there is no scontrol here"),
        ("Requested operation is presently disabled for job 812", "presently disabled"),
    ],
)
def test_a_refusal_is_told_in_a_line(
    refusal: str | None,
    words: str,
    tmp_path: Path,
    slow: list[float],
    capsys: pytest.CaptureFixture,
) -> None:
    processes.received_signals[:] = [USR1]
    path = (
        f"{scontrol(tmp_path, refusal)}:{os.environ['PATH']}"
        if refusal
        else str(tmp_path)
    )
    with patch.dict(os.environ, {**ARRAY, "PATH": path}):
        slurm.requeue(True)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("job 812_3 was not put into the queue again (")
    assert words in line
    assert "run the same command again" in line


def test_the_guides_script_starts_a_run_that_the_config_knows(tmp_path: Path) -> None:
    (script,) = re.findall(
        r"```bash\n(#!/bin/bash\n.*?)```",
        (ROOT / "docs" / "slurm.md").read_text(),
        re.DOTALL,
    )
    (tmp_path / "srun").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    told = {**step(2, 1, 0), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-eu", "-c", script],
        capture_output=True,
        text=True,
        env=told | {"SLURM_CPUS_PER_TASK": "64"},
    )
    flag, python, train, *overrides = shlex.split(done.stdout)
    assert (flag, python, train) == ("--kill-on-bad-exit=1", "python", "src/train.py")
    with patch.dict(os.environ, told):
        config = check(raw_config(*overrides, tiny=False))
    assert (config.trainer.nodes, config.trainer.devices, config.trainer.requeue) == (
        2,
        None,
        True,
    )


@pytest.mark.process
def test_tasks_of_two_machines_train_one_model_and_the_first_tells_it(
    tmp_path: Path,
) -> None:
    """Machines by srun's words alone: both are this one, which all call localhost."""
    wanted = command(
        f"runs_dir={tmp_path}",
        "stages=[pretrain]",
        "pretrain.epochs=1",
        "trainer.nodes=2",
    )
    tasks = []
    for rank in range(2):
        (place := tmp_path / f"said{rank}").mkdir()
        told = step(2, 1, rank) | {"SLURM_STEP_NODELIST": "localhost"}
        tasks.append(Started(wanted, place, environment(**told)))
    assert [task.wait(timeout=200) for task in tasks] == [0, 0], [
        task.stderr.read_text() for task in tasks
    ]
    printed = [task.stdout.read_text() for task in tasks]
    assert "The page with curves and pictures" in printed[0]
    assert not printed[1]
    (result,) = tmp_path.glob("pretrain/*/result.json")
    assert json.loads(result.read_text())["processes"] == 2


@pytest.mark.process
def test_a_sweep_in_a_job_saves_asks_once_for_all_and_leaves_with_75(
    tmp_path: Path,
) -> None:
    """The sweep answers for its cells: each of them hears the signal, too."""
    runs, fake = tmp_path / "runs", scontrol(tmp_path / "fake")
    wanted = command(
        "-m", f"runs_dir={runs}", "stages=[pretrain]", "pretrain.epochs=60", "seed=1,2"
    )
    path = f"{fake}:{os.environ['PATH']}"
    sweep = Started(wanted, tmp_path, environment(PATH=path, SLURM_JOB_ID="812"))
    while not trained_so_far(runs, 1):
        assert sweep.poll() is None, sweep.stderr.read_text()
        time.sleep(0.05)
    sweep.send_signal(USR1)
    assert sweep.wait(timeout=100) == 75
    printed = sweep.stdout.read_text()
    assert said(fake) == ["requeue 812"]
    assert "preempted: run me again" in printed
    assert "job 812 is in the queue again and goes on from here" in printed
    assert list(runs.glob("pretrain/*/checkpoints/*.ckpt"))
