"""A sweep of submitit jobs: all results arrive; a preempted job comes back."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hydra import initialize_config_dir
from submitit.core.core import Job

from forked import Started
from hydra_plugins import submitit_launcher
from hydra_plugins.submitit_launcher import SubmititLauncher, resources
from small_runs import ROOT, TINY, command, environment, plan_for, run
from unmask.config.checks import ConfigError
from unmask.storage import checkpoints
from unmask.storage.metrics_log import read_rows

SBATCH = """#!/bin/bash
cp "$1" {here}/script
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
for i in $(seq 0 $last); do
  SLURM_JOB_ID=$((42 + i)) SLURM_ARRAY_JOB_ID=42 SLURM_ARRAY_TASK_ID=$i \\
    SLURM_JOB_NUM_NODES=1 setsid bash {here}/script &
done >/dev/null 2>&1
echo Submitted batch job 42
"""
SRUN = """#!/bin/bash
[ "$SLURM_ARRAY_TASK_ID" = 2 ] && exit 137  # its machine dies
fill() {
  sed "s/%A/$SLURM_ARRAY_JOB_ID/g; s/%a/$SLURM_ARRAY_TASK_ID/g; s/%t/0/g" <<<"$1"
}
while [ "${1#--}" != "$1" ]; do
  case $1 in
    --output) out=$(fill "$2"); shift 2 ;;
    --error) err=$(fill "$2"); shift 2 ;;
    *) shift ;;
  esac
done
mkdir -p "$(dirname "$out")"
exec env SLURM_STEP_NUM_TASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 \\
  "$@" >>"$out" 2>>"$err"
"""
SACCT = (
    "#!/bin/sh\necho"
    " 'JobID|State|NodeList\n42_0|RUNNING|a\n42_1|RUNNING|a\n42_2|NODE_FAIL|a'\n"
)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    newest = checkpoints.newest(folder / "checkpoints")
    assert newest is not None
    return checkpoints.load(newest)["state_dict"]


def wait_for_training(folder: Path) -> int:
    """Wait until the stage has logged a step; return the id of its process."""
    while (
        not (folder / "metrics.jsonl").exists()
        or not (folder / "metrics.jsonl").read_text()
    ):
        time.sleep(0.02)
    return json.loads((folder / "owner.json").read_text())["pid"]


@pytest.mark.process
def test_a_preempted_job_saves_and_comes_back_and_two_cells_share_a_pretraining(
    tmp_path: Path,
) -> None:
    """Two of four cells are in the ledger; the other two race for one pretraining."""
    runs, stages = tmp_path / "runs", ("stages=[pretrain,knn]", "pretrain.epochs=12")
    interrupted = runs / "pretrain" / plan_for(*stages, "seed=1").stages[0].fingerprint
    for k in (1, 5):
        run(*stages, f"runs_dir={runs}", "seed=2", f"knn.k={k}")
    typed = command(
        "-m",
        "hydra/launcher=submitit_local",
        *stages,
        f"runs_dir={runs}",
        "seed=1,2",
        "knn.k=1,5",
    )
    sweep = Started(typed, tmp_path, environment())
    try:
        stat = Path(f"/proc/{wait_for_training(interrupted)}/stat").read_text()
        # the training's parent is the job
        job = int(stat.rpartition(")")[2].split()[1])
        # submitit's signal; its LocalJob._interrupt would end the job's controller
        os.kill(job, signal.SIGUSR2)
        assert sweep.wait(timeout=240) == 0, sweep.stderr.read_text()
    finally:
        sweep.send_signal(signal.SIGTERM)
    printed = sweep.stdout.read_text()
    logs = [path.read_text() for path in runs.rglob("*_log.out")]
    assert (printed.count(": done"), printed.count(": from the ledger")) == (
        2,
        2,
    ), printed
    (log,) = [text for text in logs if "Requeued job" in text]
    assert (
        log.index("the same command goes on from there")
        < log.index("Caught signal SIGUSR2")
        < log.index("Requeued")
    )
    assert any("pretrain: continuing at step" in text for text in logs), (
        "the job itself or one that waited for it must go on"
    )
    assert len(list(runs.glob("knn/*/result.json"))) == 4
    steps = [
        row["step"]
        for row in read_rows(interrupted / "metrics.jsonl")
        if "train/loss" in row
    ]
    assert steps == list(range(4, 49, 4)), "a step was made twice or is missing"
    run(
        *stages[1:],
        "stages=[pretrain]",
        "seed=1",
        f"runs_dir={tmp_path / 'undisturbed'}",
    )
    resumed = weights(interrupted)
    expected = weights(tmp_path / "undisturbed" / "pretrain" / interrupted.name)
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)


@pytest.mark.process
def test_slurm_jobs_get_their_cells_resources_and_a_dead_one_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """One cell is in the ledger, one cannot write there, and one's machine dies."""
    for name, text in (
        ("sbatch", SBATCH.replace("{here}", str(tmp_path))),
        ("srun", SRUN),
        ("sacct", SACCT),
        # a real one knows nothing of these jobs
        ("squeue", "#!/bin/sh\nexit 1\n"),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    runs, quick = tmp_path / "runs", ("stages=[pretrain]", "pretrain.epochs=1")
    run(*quick, f"runs_dir={runs}")
    (runs / "pretrain" / plan_for(*quick, "seed=1").stages[0].fingerprint).write_text(
        "in the way"
    )
    cell = [
        *TINY,
        *quick,
        f"runs_dir={runs}",
        "trainer.accelerator=auto",
        "trainer.devices=8",
    ]
    monkeypatch.setattr(sys, "argv", [str(ROOT / "src" / "train.py"), "-m"])
    monkeypatch.setattr(submitit_launcher, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(Job, "_results_timeout_s", 0)
    launcher = SubmititLauncher(
        "slurm",
        f"{tmp_path}/jobs/%j",
        3,
        timeout_min=30,
        cpus_per_task=16,
        partition="big",
        tasks_per_node=1,
    )
    variables = environment(
        PATH=f"{tmp_path}:{os.environ['PATH']}", PYTHONPATH=str(ROOT / "src")
    )
    with (
        patch.dict(os.environ, variables),
        initialize_config_dir(str(ROOT / "conf"), version_base="1.3"),
        pytest.raises(SystemExit) as exited,
    ):
        launcher.launch([[*cell, f"seed={seed}"] for seed in range(3)], 0)
    assert exited.value.code == 1
    output = capfd.readouterr()
    assert [
        state
        for state in ("from the ledger", "failed (exit 1)")
        for _ in range(output.out.count(f": {state}"))
    ] == [
        "from the ledger",
        "failed (exit 1)",
        "failed (exit 1)",
    ]
    assert "cannot write in" in output.err
    assert "job 42_2 ended without output (NODE_FAIL)" in output.err
    assert "0_log.err" in output.err
    script = (tmp_path / "script").read_text()
    for line in (
        "--nodes=1",
        "--ntasks-per-node=1",
        "--gpus-per-node=8",
        "--cpus-per-task=16",
        "--partition=big",
        "--signal=USR2@90",
        "--open-mode=append",
    ):
        assert f"#SBATCH {line}\n" in script
    assert script.index(
        "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"
    ) < script.index("srun --unbuffered")


def trainer_config(
    devices: int | None = 8, nodes: int = 1, accelerator: str = "gpu"
) -> Any:
    return SimpleNamespace(devices=devices, nodes=nodes, accelerator=accelerator)


@pytest.mark.parametrize(
    ("trainer", "options", "expected"),
    [
        (trainer_config(8, 2), {"tasks_per_node": 1}, {"nodes": 2, "gpus_per_node": 8}),
        (
            trainer_config(8, 2),
            {"tasks_per_node": 8, "nodes": 2},
            {"nodes": 2, "gpus_per_node": 8},
        ),
        (trainer_config(), {"gres": "gpu:a100:8"}, {"nodes": 1}),
        (trainer_config(None), {"gpus_per_node": 4}, {"nodes": 1}),
        (trainer_config(2, accelerator="cpu"), {}, {"nodes": 1}),
        (trainer_config(1, accelerator="auto"), {}, {"nodes": 1, "gpus_per_node": 1}),
    ],
)
def test_a_job_has_the_machines_and_gpus_of_its_cell(
    trainer: Any, options: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert resources(trainer, options) == expected


@pytest.mark.parametrize(
    ("trainer", "options", "message"),
    [
        (
            trainer_config(nodes=2),
            {"nodes": 3},
            "hydra.launcher.nodes = 3: trainer.nodes is 2",
        ),
        (
            trainer_config(),
            {"tasks_per_node": 4},
            (
                "hydra.launcher.tasks_per_node = 4: set 1, which starts a process a"
                " device, or trainer.devices (8)"
            ),
        ),
        (
            trainer_config(),
            {"gpus_per_node": 4},
            "hydra.launcher.gpus_per_node = 4: too few for trainer.devices=8",
        ),
        (
            trainer_config(None),
            {},
            "trainer.devices = null: a job must know its number of GPUs",
        ),
    ],
)
def test_options_that_contradict_the_cell_are_refused(
    trainer: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        resources(trainer, options)
    assert message in str(error.value)
