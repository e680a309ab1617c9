"""Several ranks train one model as one process does.

At each step with the same samples, crops and masks, to the same weights and results.
"""

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from forked import Started
from small_runs import ROOT, environment
from unmask.storage import checkpoints
from unmask.storage.metrics_log import read_rows

pytestmark = pytest.mark.process
STEPS = (
    "stages=[pretrain]",
    "pretrain.batch_size=160",
    "pretrain.epochs=2",
    "augment=crop_random",
    "data.flip=true",
)
ALL_STAGES = (
    "stages=[pretrain,knn,linear_probe,attentive_probe,partial_finetune,finetune,"
    "scratch,robustness]"
)
Steps = list[dict[str, torch.Tensor]]


def train_ranks(
    record: Path, count: int, *overrides: str, code: int = 0, **more: str
) -> list[Steps]:
    """Train on `count` ranks; return what each of them saw at each micro-batch.

    code: the exit code that all of them must have. more: environment variables.
    """
    record.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address = {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        **more,
    }
    processes = []
    for r in range(count):
        folder = record / f"output{r}"
        folder.mkdir(exist_ok=True)
        typed = [
            sys.executable,
            str(ROOT / "tests" / "member.py"),
            str(record),
            *overrides,
            f"trainer.devices={count}",
        ]
        ranks = environment(RANK=str(r), LOCAL_RANK=str(r), **address)
        processes.append(Started(typed, folder, ranks))
    codes = {process.wait(timeout=200) for process in processes}
    assert codes == {code}, [process.stderr.read_text() for process in processes]
    return [] if code else [torch.load(record / f"{r}.pt") for r in range(count)]


def weights(runs: Path, stage: str = "pretrain") -> dict[str, torch.Tensor]:
    (folder,) = (runs / stage).iterdir()
    path = checkpoints.newest(folder / "checkpoints")
    assert path is not None
    return checkpoints.load(path)["state_dict"]


def relative_distance(
    ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]
) -> float:
    """Return the norm of the difference over the norm, of all weights together.

    Not for single weights: softmax ignores the biases of keys, so that their gradients
    are rounding errors, of which Adam makes full steps.
    """
    assert ours.keys() == theirs.keys()
    flat = [
        torch.cat([s[name].double().flatten() for name in sorted(s)])
        for s in (ours, theirs)
    ]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


def losses(runs: Path, stage: str = "pretrain") -> list[float]:
    return [
        row["train/loss"]
        for row in read_rows(next((runs / stage).glob("*/metrics.jsonl")))
        if "train/loss" in row
    ]


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[int, tuple[Path, list[Steps]]]:
    """Train fifty steps on 1, 2 and 4 ranks: the ledger, and what each rank saw."""
    trainings = {}
    for count in (1, 2, 4):
        folder = tmp_path_factory.mktemp(f"on{count}")
        trainings[count] = (
            folder / "runs",
            train_ranks(folder / "seen", count, *STEPS, f"runs_dir={folder / 'runs'}"),
        )
    return trainings


@pytest.mark.parametrize("count", [2, 4])
def test_each_step_has_the_same_samples_crops_and_masks(
    count: int, trained: dict[int, tuple[Path, list[Steps]]]
) -> None:
    (single,), ranks = trained[1][1], trained[count][1]
    assert len(single) == 50
    assert {len(steps) for steps in ranks} == {50}
    for step, shares in zip(single, zip(*ranks, strict=True), strict=True):
        for name in ("ids", "images", "hidden"):
            assert torch.equal(
                torch.cat([share[name] for share in shares]), step[name]
            ), name
        assert {share["epoch"] for share in shares} == {step["epoch"]}


@pytest.mark.parametrize("count", [2, 4])
def test_losses_and_weights_after_fifty_steps_are_those_of_one_process(
    count: int, trained: dict[int, tuple[Path, list[Steps]]]
) -> None:
    """Sums are made in another order, so the last digits may differ."""
    means = [
        float(torch.stack([s["loss"] for s in shares]).mean())
        for shares in zip(*trained[count][1], strict=True)
    ]
    assert means == pytest.approx(
        [float(step["loss"]) for step in trained[1][1][0]], rel=1e-5
    )
    assert losses(trained[count][0]) == pytest.approx(losses(trained[1][0]), rel=1e-5)
    assert relative_distance(weights(trained[count][0]), weights(trained[1][0])) < 1e-4


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (1, 2)])
def test_a_run_goes_on_exactly_on_as_many_processes_and_closely_on_others(
    before: int,
    after: int,
    trained: dict[int, tuple[Path, list[Steps]]],
    tmp_path: Path,
) -> None:
    overrides = *STEPS, f"runs_dir={tmp_path / 'runs'}", "checkpoint.every_steps=1"
    train_ranks(tmp_path / "seen", before, *overrides, code=9, CRASH_AT="31")
    seen = train_ranks(tmp_path / "seen", after, *overrides)
    assert {len(steps) for steps in seen} == {19}
    resumed, expected = weights(tmp_path / "runs"), weights(trained[after][0])
    if before == after:
        assert all(torch.equal(resumed[name], expected[name]) for name in expected)
        assert losses(tmp_path / "runs") == losses(trained[after][0])
    assert relative_distance(resumed, expected) < 1e-4
    assert losses(tmp_path / "runs") == pytest.approx(
        losses(trained[after][0]), rel=1e-5
    )


def test_a_run_goes_on_with_other_micro_batches(
    trained: dict[int, tuple[Path, list[Steps]]], tmp_path: Path
) -> None:
    overrides = *STEPS, f"runs_dir={tmp_path / 'runs'}", "checkpoint.every_steps=1"
    train_ranks(
        tmp_path / "seen",
        1,
        *overrides,
        "trainer.micro_batch=40",
        code=9,
        CRASH_AT="31",
    )
    train_ranks(
        tmp_path / "seen",
        1,
        *overrides,
        "trainer.micro_batch=80",
        code=9,
        CRASH_AT="33",
    )
    (steps,) = train_ranks(tmp_path / "seen", 1, *overrides)
    assert [len(step["ids"]) for step in steps] == [160] * 17
    assert relative_distance(weights(tmp_path / "runs"), weights(trained[1][0])) < 1e-4
    assert losses(tmp_path / "runs") == pytest.approx(losses(trained[1][0]), rel=1e-5)


def results(runs: Path) -> dict[str, Any]:
    all_results = [
        json.loads(path.read_text()) for path in runs.glob("*/*/result.json")
    ]
    return {f"{result['stage']} {result['start']}": result for result in all_results}


def test_every_stage_gives_the_result_of_one_process(tmp_path: Path) -> None:
    """Ranks share one BatchNorm; validation counts each image once.

    Though 1,000 images do not split evenly into batches of 256.
    """
    overrides = (
        ALL_STAGES,
        "finetune.epochs=1",
        "partial_finetune.blocks=1",
        "controls=[random,pixels]",
        "target=pca",
        "robustness.images=101",
        "robustness.corruptions=[fog]",
        "robustness.severities=[3]",
        "linear_probe.base_lr=0.01",
        "attentive_probe.epochs=6",
        "linear_probe.augment.flip=true",
        "data.flip=true",
        "labels=128",
        "finetune.batch_size=64",
        "finetune.mixup=0.8",
        "finetune.cutmix=1",
        "finetune.ema=0.9",
        "finetune.drop_path=0.2",
    )
    by_count = {}
    for count in (1, 2):
        train_ranks(
            tmp_path / "seen", count, *overrides, f"runs_dir={tmp_path / str(count)}"
        )
        by_count[count] = results(tmp_path / str(count))
    assert by_count[1].keys() == by_count[2].keys()
    assert len(by_count[1]) == 16
    for name, one in by_count[1].items():
        two = by_count[2][name]
        assert two["fingerprint"] == one["fingerprint"]
        assert two["images"] == one["images"]
        assert two["metrics"].keys() == one["metrics"].keys()
        assert two["processes"] == (2 if one["stage"] != "patch_pca" else 1)
        for metric, value in one["metrics"].items():
            # two of 1,000 images are close to the decision boundary
            near = {"rel": 1e-4} if metric == "val/loss" else {"abs": 0.2}
            assert two["metrics"][metric] == pytest.approx(value, **near), (
                name,
                metric,
            )
    assert (
        relative_distance(
            weights(tmp_path / "2", "scratch"), weights(tmp_path / "1", "scratch")
        )
        < 1e-3
    )
