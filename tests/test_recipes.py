"""No option is a silent no-op: each changes what a stage does, not only its fingerprint."""

import json
from pathlib import Path
from typing import Any

import pytest

from small_runs import COARSE, plan_for, run
from unmask.stages.ledger import StageFolder
from unmask.storage.metrics_log import MACHINE_KEYS, read_rows

BASE = (
    "model.depth=3",
    "pretrain.epochs=1",
    "finetune.epochs=2",
    "finetune.labels=40",
    "finetune.batch_size=20",
    "linear_probe.labels=40",
    "linear_probe.batch_size=20",
    "attentive_probe.labels=40",
    "attentive_probe.batch_size=20",
    "attentive_probe.epochs=2",
    COARSE,
)
COMMON = {
    "optimizer": "lars",
    "epochs": "3",
    "batch_size": "10",
    "base_lr": "0.011",
    "min_lr": "1e-5",
    "warmup_epochs": "1",
    "weight_decay": "0.3",
    "betas": "[0.5,0.6]",
    "augment.crop": "random",
    "augment.flip": "true",
    "augment.policy": "rand-m9-n2",
    "augment.erasing": "0.9",
    "labels": "20",
    "image_size": "56",
}
TUNED = {
    "pool": "cls",
    "layer_decay": "0.5",
    "drop_path": "0.5",
    "smoothing": "0.2",
    "mixup": "0.8",
    "cutmix": "1.0",
    "ema": "0.9",
}
OPTIONS = {
    "linear_probe": COMMON | {"optimizer": "adamw", "pool": "mean"},
    "attentive_probe": COMMON | {"heads": "1"},
    "finetune": COMMON | TUNED,
    "scratch": COMMON | TUNED,
    "partial_finetune": COMMON | TUNED | {"blocks": "2"},
}
CASES = [(stage, key) for stage, options in OPTIONS.items() for key in options]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one ledger for all tests: its pretraining is run once."""
    return tmp_path_factory.mktemp("runs")


def run_stage(runs: Path, stage: str, *overrides: str) -> dict[str, Any]:
    """Return what a stage did: losses and rates of its steps, and its metrics."""
    arguments = (f"runs_dir={runs}", f"stages=[{stage}]", *BASE, *overrides)
    result = run(*arguments)[-1]
    folder = StageFolder(runs, plan_for(*arguments).stages[-1]).path
    log = [
        {k: v for k, v in row.items() if k not in MACHINE_KEYS}
        for row in read_rows(folder / "metrics.jsonl")
    ]
    return {
        "log": log,
        "rates": json.loads((folder / "rates.json").read_text()),
        "metrics": result["metrics"],
    }


@pytest.mark.parametrize(("stage", "key"), CASES)
def test_each_option_changes_what_the_stage_does(
    stage: str, key: str, runs: Path
) -> None:
    changed = run_stage(runs, stage, f"{stage}.{key}={OPTIONS[stage][key]}")
    assert changed != run_stage(runs, stage)


@pytest.mark.parametrize(
    "key",
    [
        "augment.crop",
        "augment.flip",
        "augment.policy",
        "augment.erasing",
        "mixup",
        "smoothing",
    ],
)
def test_what_changes_images_or_targets_changes_the_first_loss(
    key: str, runs: Path
) -> None:
    losses = [
        run_stage(runs, "finetune", "finetune.base_lr=0.1", *more)["log"][0][
            "train/loss"
        ]
        for more in ((), (f"finetune.{key}={OPTIONS['finetune'][key]}",))
    ]
    assert losses[0] != losses[1]


def test_the_scale_of_random_crops_changes_them(runs: Path) -> None:
    crops = "finetune.augment.crop=random"
    assert run_stage(
        runs, "finetune", crops, "finetune.augment.scale=[0.1,0.2]"
    ) != run_stage(runs, "finetune", crops)


def test_a_classifiers_metrics_and_tables_are_stored(runs: Path) -> None:
    """Top-1, top-5, calibration, accuracy per class, and the confusion matrix."""
    metrics = run_stage(runs, "finetune")["metrics"]
    assert {
        "val/accuracy",
        "val/top5",
        "val/calibration_error",
        "val/loss",
    } < metrics.keys()
    assert metrics["val/accuracy"] <= metrics["val/top5"] <= 100
    folder = StageFolder(
        runs, plan_for(f"runs_dir={runs}", "stages=[finetune]", *BASE).stages[-1]
    ).path
    classes = [
        line.split(",")
        for line in (folder / "classes.csv").read_text().splitlines()[1:]
    ]
    confusion = [
        line.split(",")[1:]
        for line in (folder / "confusion.csv").read_text().splitlines()[1:]
    ]
    assert [row[:2] for row in classes] == [[str(i), "100"] for i in range(10)]
    right = sum(int(confusion[i][i]) for i in range(10))
    assert metrics["val/accuracy"] == pytest.approx(right / 10, abs=1e-3)
    assert [float(row[2]) for row in classes] == [
        float(confusion[i][i]) for i in range(10)
    ]


def test_averaged_weights_are_evaluated_and_the_others_are_reported_too(
    runs: Path,
) -> None:
    metrics = run_stage(runs, "scratch", "scratch.ema=0.99")["metrics"]
    without = run_stage(runs, "scratch")["metrics"]
    assert metrics["val/accuracy_unaveraged"] == without["val/accuracy"]
    assert metrics["val/loss"] != without["val/loss"]
