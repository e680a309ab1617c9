"""watch.probe: the features are measured while pretraining goes on as without it."""

from pathlib import Path

import pytest
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler

from small_runs import COARSE, call, plan_for, run
from unmask.config.stage_checks import check_labels
from unmask.storage import checkpoints
from unmask.storage.metrics_log import MACHINE_KEYS, read_rows
from unmask.tasks.features import LabelledFeatures
from unmask.tasks.ridge import PENALTY, ridge_accuracy


def weights(runs: Path) -> dict[str, torch.Tensor]:
    (folder,) = runs.glob("pretrain/*/checkpoints")
    newest = checkpoints.newest(folder)
    assert newest is not None
    return checkpoints.load(newest)["state_dict"]


@pytest.mark.parametrize("probe", ["knn", "linear"])
def test_a_probe_changes_neither_weights_nor_other_rows(
    probe: str, tmp_path: Path
) -> None:
    stages = "stages=[pretrain,knn]"
    plain = run(stages, f"runs_dir={tmp_path / 'plain'}")
    probed = run(stages, f"runs_dir={tmp_path / 'probed'}", f"watch.probe={probe}")
    one, two = weights(tmp_path / "plain"), weights(tmp_path / "probed")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert plain[0]["metrics"] == probed[0]["metrics"]
    key = f"watch/{probe}"
    logs = [
        read_rows(
            tmp_path / name / "pretrain" / plain[0]["fingerprint"] / "metrics.jsonl"
        )
        for name in ("plain", "probed")
    ]
    values = [row.pop(key) for row in logs[1] if "val/loss" in row]
    for row in [*logs[0], *logs[1]]:
        for machine_key in MACHINE_KEYS:
            row.pop(machine_key, None)
    assert logs[0] == logs[1]
    if probe == "knn":
        measured = next(r for r in probed if r["title"] == "kNN")
        # the two stages may compute with other kernels: a neighbour or two may change
        expected = pytest.approx(measured["metrics"]["val/accuracy"], abs=0.3)
        assert values[-1] == expected
    assert all(0 < value <= 100 for value in values)


@pytest.mark.process
@pytest.mark.parametrize("probe", ["knn", "linear"])
def test_two_processes_share_the_images_and_log_the_value_of_one(
    probe: str, tmp_path: Path
) -> None:
    """Weights hardly move: then only who saw which image could change the value."""
    overrides = (
        COARSE,
        "stages=[pretrain]",
        "pretrain.epochs=1",
        "pretrain.base_lr=1e-9",
        f"watch.probe={probe}",
        # of odd number, so that the ranks have different shares
        "watch.probe_images=301",
    )
    values = []
    for devices in (1, 2):
        runs = tmp_path / str(devices)
        done = call(
            *overrides,
            f"runs_dir={runs}",
            f"trainer.devices={devices}",
            process="this" if devices == 1 else "forked",
        )
        assert done.returncode == 0, done.stderr
        (log,) = runs.glob("pretrain/*/metrics.jsonl")
        key = f"watch/{probe}"
        values.append([row[key] for row in read_rows(log) if key in row])
    assert len(values[0]) == len(values[1]) == 1
    # of 301 images, one
    assert values[1] == pytest.approx(values[0], abs=100 / 301 + 1e-6)
    assert values[0][0] > 15


def test_the_linear_classifier_is_ridge_regression_on_standardised_features() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (400,), generator=generator)
    centres = torch.randn(5, 12, generator=generator)
    features = centres[labels] + 1.5 * torch.randn(400, 12, generator=generator)
    bank = LabelledFeatures(features[:300], labels[:300])
    queries = LabelledFeatures(features[300:], labels[300:])
    scaler = StandardScaler().fit(bank.features_ND)
    oracle = RidgeClassifier(alpha=PENALTY * 300).fit(
        scaler.transform(bank.features_ND), bank.labels_N
    )
    expected = oracle.score(scaler.transform(queries.features_ND), queries.labels_N)
    assert ridge_accuracy(bank, queries) == pytest.approx(100 * expected)
    assert expected > 0.5


def test_images_without_labels_and_sharded_encoders_are_not_probed(
    tmp_path: Path,
) -> None:
    config = plan_for("stages=[pretrain]", "watch.probe=knn").config
    (message,) = check_labels(config, 1)
    assert message.startswith("watch.probe = knn: features need labels")
    done = call(
        "watch.probe=knn",
        "trainer.sharded=true",
        "trainer.devices=2",
        "trainer=cpu",
        f"runs_dir={tmp_path}",
    )
    assert done.returncode == 2
    assert "watch.probe = knn: a sharded encoder" in done.stderr
