"""A sweep of submitit's jobs: all results come home; a job that is asked to leave saves first and comes back."""

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

from hydra_plugins import submitit_launcher
from hydra_plugins.submitit_launcher import SubmititLauncher, resources
from small_runs import ROOT, TINY, command, environment, plan_for, run
from unmask.config.checks import ConfigError
from unmask.storage import checkpoints
from unmask.storage.metrics_log import read
from warm_commands import Started

SBATCH = """#!/bin/bash
cp "$1" {here}/script
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
for i in $(seq 0 $last); do
  SLURM_JOB_ID=$((42 + i)) SLURM_ARRAY_JOB_ID=42 SLURM_ARRAY_TASK_ID=$i SLURM_JOB_NUM_NODES=1 setsid bash {here}/script &
done >/dev/null 2>&1
echo Submitted batch job 42
"""
SRUN = """#!/bin/bash
[ "$SLURM_ARRAY_TASK_ID" = 2 ] && exit 137  # its machine dies
fill() { sed "s/%A/$SLURM_ARRAY_JOB_ID/g; s/%a/$SLURM_ARRAY_TASK_ID/g; s/%t/0/g" <<<"$1"; }
while [ "${1#--}" != "$1" ]; do
  case $1 in --output) out=$(fill "$2"); shift 2 ;; --error) err=$(fill "$2"); shift 2 ;; *) shift ;; esac
done
mkdir -p "$(dirname "$out")"
exec env SLURM_STEP_NUM_TASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 "$@" >>"$out" 2>>"$err"
"""
SACCT = (
    "#!/bin/sh\necho"
    " 'JobID|State|NodeList\n42_0|RUNNING|a\n42_1|RUNNING|a\n42_2|NODE_FAIL|a'\n"
)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    newest = checkpoints.newest(folder / "checkpoints")
    assert newest is not None
    return checkpoints.load(newest)["state_dict"]


def trainer_of(folder: Path) -> int:
    """The process that trains it, some steps on its way."""
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
    """Of four cells two stand in the ledger already; the other two race for one pretraining."""
    runs, both = tmp_path / "runs", ("stages=[pretrain,knn]", "pretrain.epochs=12")
    interrupted = runs / "pretrain" / plan_for(*both, "seed=1").stages[0].fingerprint
    for k in (1, 5):
        run(*both, f"runs_dir={runs}", "seed=2", f"knn.k={k}")
    wanted = command(
        "-m",
        "hydra/launcher=submitit_local",
        *both,
        f"runs_dir={runs}",
        "seed=1,2",
        "knn.k=1,5",
    )
    sweep = Started(wanted, tmp_path, environment())
    try:
        place = Path(f"/proc/{trainer_of(interrupted)}/stat")
        job = int(place.read_text().rpartition(")")[2].split()[1])  # which started it
        # submitit's signal; its LocalJob._interrupt would end what watches over the job
        os.kill(job, signal.SIGUSR2)
        assert sweep.wait(timeout=240) == 0, sweep.stderr.read_text()
    finally:
        sweep.send_signal(signal.SIGTERM)
    printed, logs = (
        sweep.stdout.read_text(),
        [path.read_text() for path in runs.rglob("*_log.out")],
    )
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
        "by the job, or by one that waited for it"
    )
    assert len(list(runs.glob("knn/*/result.json"))) == 4
    steps = [
        row["step"]
        for row in read(interrupted / "metrics.jsonl")
        if "train/loss" in row
    ]
    assert steps == list(range(4, 49, 4)), "no step was made twice, and none is missing"
    run(
        *both[1:], "stages=[pretrain]", "seed=1", f"runs_dir={tmp_path / 'undisturbed'}"
    )
    ours, whole = (
        weights(interrupted),
        weights(tmp_path / "undisturbed" / "pretrain" / interrupted.name),
    )
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


@pytest.mark.process
def test_slurms_jobs_get_what_cells_take_and_one_that_dies_or_fails_loses_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """Of three cells the first stands in the ledger, the second cannot write there, the third's machine dies."""
    for name, text in (
        ("sbatch", SBATCH.replace("{here}", str(tmp_path))),
        ("srun", SRUN),
        ("sacct", SACCT),
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
    monkeypatch.setattr(submitit_launcher, "POLL", 0.1)
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
    told = environment(
        PATH=f"{tmp_path}:{os.environ['PATH']}", PYTHONPATH=str(ROOT / "src")
    )
    with (
        patch.dict(os.environ, told),
        initialize_config_dir(str(ROOT / "conf"), version_base="1.3"),
        pytest.raises(SystemExit) as left,
    ):
        launcher.launch([[*cell, f"seed={seed}"] for seed in range(3)], 0)
    assert left.value.code == 1
    said = capfd.readouterr()
    assert [
        state
        for state in ("from the ledger", "failed (exit 1)")
        for _ in range(said.out.count(f": {state}"))
    ] == [
        "from the ledger",
        "failed (exit 1)",
        "failed (exit 1)",
    ]
    assert "cannot write in" in said.err
    assert "job 42_2 ended without a word (NODE_FAIL)" in said.err
    assert "0_log.err" in said.err
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


def trainer(devices: int | None = 8, nodes: int = 1, accelerator: str = "gpu") -> Any:
    return SimpleNamespace(devices=devices, nodes=nodes, accelerator=accelerator)


@pytest.mark.parametrize(
    ("of", "options", "wanted"),
    [
        (trainer(8, 2), {"tasks_per_node": 1}, {"nodes": 2, "gpus_per_node": 8}),
        (
            trainer(8, 2),
            {"tasks_per_node": 8, "nodes": 2},
            {"nodes": 2, "gpus_per_node": 8},
        ),
        (trainer(), {"gres": "gpu:a100:8"}, {"nodes": 1}),
        (trainer(None), {"gpus_per_node": 4}, {"nodes": 1}),
        (trainer(2, accelerator="cpu"), {}, {"nodes": 1}),
        (trainer(1, accelerator="auto"), {}, {"nodes": 1, "gpus_per_node": 1}),
    ],
)
def test_a_job_has_the_machines_and_gpus_of_its_cell(
    of: Any, options: dict[str, Any], wanted: dict[str, Any]
) -> None:
    assert resources(of, options) == wanted


@pytest.mark.parametrize(
    ("of", "options", "said"),
    [
        (
            trainer(nodes=2),
            {"nodes": 3},
            "hydra.launcher.nodes = 3: trainer.nodes is 2",
        ),
        (
            trainer(),
            {"tasks_per_node": 4},
            (
                "hydra.launcher.tasks_per_node = 4: 1, which starts a process a device,"
                " or trainer.devices (8)"
            ),
        ),
        (
            trainer(),
            {"gpus_per_node": 4},
            "hydra.launcher.gpus_per_node = 4: too few for trainer.devices=8",
        ),
        (
            trainer(None),
            {},
            (
                "trainer.devices = null: how many GPUs is the job to have? say"
                " trainer.devices=8"
            ),
        ),
    ],
)
def test_options_that_contradict_the_cell_are_refused(
    of: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        resources(of, options)
    assert said in str(error.value)
