"""A preempted SLURM job: one task requeues it, once, and only for SLURM's signals."""

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

from forked import Started
from small_runs import ROOT, command, environment, has_logged, raw_config
from test_ranks import step_environment
from unmask.config.checks import check
from unmask.distributed import processes, slurm
from unmask.distributed.ranks import RankInfo

ARRAY = {"SLURM_JOB_ID": "812", "SLURM_ARRAY_JOB_ID": "812", "SLURM_ARRAY_TASK_ID": "3"}
USR1, USR2, TERM, INT = signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT


def fake_scontrol(folder: Path, refusal: str = "") -> Path:
    """Write a program `scontrol` that notes its arguments."""
    folder.mkdir(exist_ok=True)
    end = f'echo "{refusal}" >&2; exit 1' if refusal else "exit 0"
    (folder / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\n{end}\n')
    (folder / "scontrol").chmod(0o755)
    return folder


def scontrol_calls(folder: Path) -> list[str]:
    return (
        (folder / "calls").read_text().splitlines()
        if (folder / "calls").exists()
        else []
    )


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Return the seconds of each sleep; nothing is really waited for."""
    seconds: list[float] = []
    monkeypatch.setattr(slurm, "time", SimpleNamespace(sleep=seconds.append))
    yield seconds
    processes.received_signals.clear()


@pytest.mark.parametrize(
    ("received", "enabled", "variables", "calls"),
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
def test_only_the_first_task_requeues_and_only_after_slurms_signals(
    received: list[int],
    enabled: bool,
    variables: dict[str, str],
    calls: list[str],
    tmp_path: Path,
    slept: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processes.received_signals[:] = received
    path = f"{fake_scontrol(tmp_path)}:{os.environ['PATH']}"
    with patch.dict(os.environ, {**ARRAY, "PATH": path, **variables}):
        for rank in (RankInfo(0, 2, 0, 1), RankInfo(1, 2, 0, 1)):
            monkeypatch.setattr(slurm, "rank_info", lambda rank=rank: rank)
            slurm.requeue(enabled)
    assert scontrol_calls(tmp_path) == calls
    assert slept == ([slurm.HEAD_START_SECONDS] if calls else []), (
        "the other task must leave later, as its end may end all tasks"
    )


def test_outside_of_slurm_nothing_is_requeued(
    tmp_path: Path, slept: list[float]
) -> None:
    processes.received_signals[:] = [USR1]
    with patch.dict(os.environ, {"PATH": str(fake_scontrol(tmp_path))}, clear=True):
        slurm.requeue(True)
    assert not scontrol_calls(tmp_path)


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (None, "there is no scontrol here"),
        ("Requested operation is presently disabled for job 812", "presently disabled"),
    ],
)
def test_a_refusal_is_printed_in_one_line(
    refusal: str | None,
    words: str,
    tmp_path: Path,
    slept: list[float],
    capsys: pytest.CaptureFixture,
) -> None:
    processes.received_signals[:] = [USR1]
    path = (
        f"{fake_scontrol(tmp_path, refusal)}:{os.environ['PATH']}"
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
        r"```(?:bash)?\n(#!/bin/bash\n.*?)```",
        (ROOT / "docs" / "slurm.md").read_text(),
        re.DOTALL,
    )
    (tmp_path / "srun").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    variables = {
        **step_environment(2, 1, 0),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-eu", "-c", script],
        capture_output=True,
        text=True,
        env=variables | {"SLURM_CPUS_PER_TASK": "64"},
    )
    flag, python, train, *overrides = shlex.split(done.stdout)
    assert (flag, python, train) == ("--kill-on-bad-exit=1", "python", "src/train.py")
    with patch.dict(os.environ, variables):
        config = check(raw_config(*overrides, tiny=False))
    assert (config.trainer.nodes, config.trainer.devices, config.trainer.requeue) == (
        2,
        None,
        True,
    )


@pytest.mark.process
def test_tasks_of_two_machines_train_one_model_and_only_the_first_prints(
    tmp_path: Path,
) -> None:
    """By srun's variables there are two machines; both are this one, localhost."""
    typed = command(
        f"runs_dir={tmp_path}",
        "stages=[pretrain]",
        "pretrain.epochs=1",
        "trainer.nodes=2",
    )
    tasks = []
    for rank in range(2):
        folder = tmp_path / f"output{rank}"
        folder.mkdir()
        variables = step_environment(2, 1, rank) | {"SLURM_STEP_NODELIST": "localhost"}
        tasks.append(Started(typed, folder, environment(**variables)))
    assert [task.wait(timeout=200) for task in tasks] == [0, 0], [
        task.stderr.read_text() for task in tasks
    ]
    printed = [task.stdout.read_text() for task in tasks]
    assert "The page with curves and pictures" in printed[0]
    assert not printed[1]
    (result,) = tmp_path.glob("pretrain/*/result.json")
    assert json.loads(result.read_text())["processes"] == 2


@pytest.mark.process
def test_a_sweep_in_a_job_saves_requeues_once_and_leaves_with_75(
    tmp_path: Path,
) -> None:
    """The cells get the signal too, but only the sweep requeues the job."""
    runs, fake = tmp_path / "runs", fake_scontrol(tmp_path / "fake")
    typed = command(
        "-m", f"runs_dir={runs}", "stages=[pretrain]", "pretrain.epochs=60", "seed=1,2"
    )
    path = f"{fake}:{os.environ['PATH']}"
    sweep = Started(typed, tmp_path, environment(PATH=path, SLURM_JOB_ID="812"))
    while not has_logged(runs, 1):
        assert sweep.poll() is None, sweep.stderr.read_text()
        time.sleep(0.05)
    sweep.send_signal(USR1)
    assert sweep.wait(timeout=100) == 75
    printed = sweep.stdout.read_text()
    assert scontrol_calls(fake) == ["requeue 812"]
    assert "preempted: run me again" in printed
    assert "job 812 is in the queue again and goes on from here" in printed
    assert list(runs.glob("pretrain/*/checkpoints/*.ckpt"))
