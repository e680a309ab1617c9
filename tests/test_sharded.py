"""A sharded model (FSDP) trains as a whole one does, and its checkpoints are whole."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from small_runs import plan_for, run
from test_together import losses, relative_distance, results, train_ranks, weights
from unmask.callbacks.checkpointing import Checkpointing
from unmask.commands.replay.rebuild import read_record, rebuild_step
from unmask.commands.replay.replay import recompute
from unmask.config.checks import ConfigError
from unmask.stages.devices import total_processes
from unmask.storage import checkpoints

STEPS = (
    "stages=[pretrain]",
    "model.depth=2",
    "decoder.depth=2",
    "pretrain.batch_size=400",
    "pretrain.epochs=2",
    "checkpoint.every_minutes=null",
)
DOWNSTREAM = (
    "stages=[pretrain,linear_probe,partial_finetune,finetune]",
    "partial_finetune.blocks=0.5",
    "finetune.ema=0.9",
    "finetune.layer_decay=0.65",
    "finetune.drop_path=0.2",
    "labels=128",
    "finetune.batch_size=32",
    "linear_probe.epochs=1",
    "watch.times=1",
)
SHARDED = "trainer.sharded=true"
Steps = list[dict[str, Any]]


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Steps]]:
    """Train twenty steps on two ranks: the ledger, and what each rank saw."""
    folder = tmp_path_factory.mktemp("sharded")
    return folder / "runs", train_ranks(
        folder / "seen", 2, *STEPS, *DOWNSTREAM, SHARDED, f"runs_dir={folder / 'runs'}"
    )


@pytest.fixture(scope="module")
def unsharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unsharded")
    run(*STEPS, *DOWNSTREAM, f"runs_dir={folder}")
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kill two ranks after the eleventh step, in mid-epoch."""
    folder = tmp_path_factory.mktemp("killed")
    typed = (*STEPS, SHARDED, f"runs_dir={folder / 'runs'}", "checkpoint.every_steps=1")
    train_ranks(folder / "seen", 2, *typed, code=9, CRASH_AT="11")
    return folder / "runs"


def content(runs: Path) -> dict[str, Any]:
    (folder,) = runs.glob("pretrain/*/checkpoints")
    path = checkpoints.newest(folder)
    assert path is not None
    return checkpoints.load(path)


def same_moments(ours: dict[int, Any], theirs: dict[int, Any]) -> bool:
    """Return whether the moments of each parameter are equal, bit for bit."""
    pairs = [
        (ours[i][name], value) for i in theirs for name, value in theirs[i].items()
    ]
    return ours.keys() == theirs.keys() and all(
        torch.equal(one, other) for one, other in pairs
    )


def test_each_rank_has_half_of_the_weights_and_moments(
    sharded: tuple[Path, list[Steps]],
) -> None:
    _, ranks = sharded
    whole = content(sharded[0])
    parameters = sum(value.numel() for value in whole["state_dict"].values())
    moments = sum(
        value.numel()
        for state in whole["optimizer_states"][0]["state"].values()
        for value in state.values()
    )
    for steps in ranks:
        # not quite: tokens and positions have one row, which is on rank zero
        assert steps[-1]["local_weights"] == pytest.approx(parameters / 2, rel=0.15)
        assert steps[-1]["local_moments"] == pytest.approx(moments / 2, rel=0.15)
    assert sum(steps[-1]["local_weights"] for steps in ranks) == parameters


def test_losses_weights_and_every_stage_are_those_of_one_process(
    sharded: tuple[Path, list[Steps]], unsharded: Path
) -> None:
    ours, theirs = results(sharded[0]), results(unsharded)
    assert losses(sharded[0]) == pytest.approx(losses(unsharded), rel=1e-5)
    assert relative_distance(weights(sharded[0]), weights(unsharded)) < 1e-4
    for stage in ("partial_finetune", "finetune"):  # the average is among these weights
        assert any(name.startswith("ema.") for name in weights(sharded[0], stage))
        assert (
            relative_distance(weights(sharded[0], stage), weights(unsharded, stage))
            < 1e-4
        )
    assert ours.keys() == theirs.keys()
    for name, one in theirs.items():
        assert ours[name]["fingerprint"] == one["fingerprint"]
        # one image of 1,000
        assert ours[name]["metrics"] == pytest.approx(
            one["metrics"], rel=1e-4, abs=0.11
        ), name


def test_a_sharded_models_checkpoint_is_that_of_one_process(
    sharded: tuple[Path, list[Steps]], unsharded: Path
) -> None:
    """Equal names, shapes, parameters and groups, in the same order, and no shards."""
    ours, theirs = content(sharded[0]), content(unsharded)
    assert ours.keys() == theirs.keys()
    assert list(ours["state_dict"]) == list(theirs["state_dict"])
    assert {type(value) for value in ours["state_dict"].values()} == {torch.Tensor}
    (one,), (other,) = ours["optimizer_states"], theirs["optimizer_states"]
    assert one["param_groups"] == other["param_groups"]
    assert one["state"].keys() == other["state"].keys()
    for number, moments in other["state"].items():
        assert {name: value.shape for name, value in one["state"][number].items()} == {
            name: value.shape for name, value in moments.items()
        }
        assert {type(value) for value in one["state"][number].values()} == {
            torch.Tensor
        }


def test_a_sharded_run_goes_on_bit_for_bit(
    killed: Path, sharded: tuple[Path, list[Steps]], tmp_path: Path
) -> None:
    runs = shutil.copytree(killed, tmp_path / "runs")
    seen = train_ranks(
        tmp_path / "seen",
        2,
        *STEPS,
        SHARDED,
        f"runs_dir={runs}",
        "checkpoint.every_steps=1",
    )
    assert {len(steps) for steps in seen} == {9}
    ours, whole = content(runs), content(sharded[0])
    assert losses(runs) == losses(sharded[0])
    assert all(
        torch.equal(ours["state_dict"][name], value)
        for name, value in whole["state_dict"].items()
    )
    assert same_moments(
        ours["optimizer_states"][0]["state"], whole["optimizer_states"][0]["state"]
    )


def test_one_process_goes_on_from_a_sharded_run(
    killed: Path, unsharded: Path, tmp_path: Path
) -> None:
    runs = shutil.copytree(killed, tmp_path / "runs")
    run(*STEPS, f"runs_dir={runs}")
    assert losses(runs) == pytest.approx(losses(unsharded), rel=1e-5)
    assert relative_distance(weights(runs), weights(unsharded)) < 1e-4


def test_a_sharded_run_goes_on_from_one_process(
    unsharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Checkpointing.on_train_batch_end

    def save_and_fail(self: Checkpointing, trainer: Any, *args: Any) -> None:
        original(self, trainer, *args)
        assert trainer.global_step < 11, "as it was planned"

    typed = (*STEPS, f"runs_dir={tmp_path / 'runs'}", "checkpoint.every_steps=1")
    monkeypatch.setattr(Checkpointing, "on_train_batch_end", save_and_fail)
    with pytest.raises(AssertionError, match="as it was planned"):
        run(*typed)
    seen = train_ranks(tmp_path / "seen", 2, *typed, SHARDED)
    assert {len(steps) for steps in seen} == {9}
    assert losses(tmp_path / "runs") == pytest.approx(losses(unsharded), rel=1e-5)
    assert relative_distance(weights(tmp_path / "runs"), weights(unsharded)) < 1e-4


def test_a_non_finite_step_of_a_sharded_run_is_recorded_as_a_whole(
    tmp_path: Path,
) -> None:
    """The step is checked one step later, as on a GPU: its shards must still exist.

    One process repeats it from whole weights, in bfloat16, with the same losses.
    """
    half = ("trainer.precision=bf16-mixed", "checkpoint.every_steps=4")
    typed = (*STEPS, *half, SHARDED, f"runs_dir={tmp_path / 'runs'}")
    train_ranks(tmp_path / "seen", 2, *typed, code=1, INFINITE_AT="5")
    (folder,) = tmp_path.glob("runs/pretrain/*/nonfinite")
    record = json.loads((folder / "record.json").read_text())
    assert (record["step"], record["processes"]) == (5, 2)
    assert record["finite"] == {"loss": True, "gradients": False, "weights": True}
    recorded = checkpoints.load(folder / record["state"])
    before = content(tmp_path / "runs")
    assert before["global_step"] == 4
    assert all(
        torch.equal(recorded["state_dict"][name], value)
        for name, value in before["state_dict"].items()
    )
    assert same_moments(
        recorded["optimizer_states"][0]["state"], before["optimizer_states"][0]["state"]
    )
    assert record["parameters"].keys() == before["state_dict"].keys()
    whole = read_record(str(folder))
    assert whole.losses == pytest.approx(recompute(rebuild_step(whole))[0], rel=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("trainer=fsdp", "trainer.devices=1"),
            r"trainer\.sharded = true: .*trainer\.devices=2",
        ),
        (
            ("trainer=fsdp", "stages=[linear_probe]"),
            "none of the stages .* trains an encoder",
        ),
    ],
)
def test_what_cannot_be_sharded_is_refused(
    overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_for(*overrides)


def test_a_machine_with_one_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"trainer\.sharded = true: one device"):
        total_processes(plan_for("trainer=fsdp"))
