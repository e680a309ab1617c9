"""A model in shares trains as a whole one does, and what it leaves is whole: anybody goes on from it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from small_runs import plan_for, run
from test_together import apart, losses, results, together, weights
from unmask.callbacks.checkpointing import Checkpointing
from unmask.commands.replay.record import read_record, rebuild
from unmask.commands.replay.remedies import Cure, attempt
from unmask.config.checks import ConfigError
from unmask.stages.devices import processes
from unmask.storage import checkpoints

STEPS = (
    "stages=[pretrain]",
    "model.depth=2",
    "decoder.depth=2",
    "pretrain.batch_size=400",
    "pretrain.epochs=2",
    "checkpoint.every_minutes=null",
)
TUNED = (
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
SHARED = "trainer.sharded=true"
Steps = list[dict[str, Any]]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Steps]]:
    """Two processes with a share each: the ledger, and what each saw of the pretraining's twenty steps."""
    folder = tmp_path_factory.mktemp("shared")
    return folder / "runs", together(
        folder / "seen", 2, *STEPS, *TUNED, SHARED, f"runs_dir={folder / 'runs'}"
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    run(*STEPS, *TUNED, f"runs_dir={folder}")
    return folder


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same two processes, dead after the eleventh step, in mid-epoch."""
    folder = tmp_path_factory.mktemp("broken")
    typed = (*STEPS, SHARED, f"runs_dir={folder / 'runs'}", "checkpoint.every_steps=1")
    together(folder / "seen", 2, *typed, code=9, CRASH_AT="11")
    return folder / "runs"


def content(runs: Path) -> dict[str, Any]:
    (folder,) = runs.glob("pretrain/*/checkpoints")
    path = checkpoints.newest(folder)
    assert path is not None
    return checkpoints.load(path)


def same(ours: dict[int, Any], theirs: dict[int, Any]) -> bool:
    """The moments of each parameter, bit for bit."""
    pairs = [
        (ours[i][name], value) for i in theirs for name, value in theirs[i].items()
    ]
    return ours.keys() == theirs.keys() and all(
        torch.equal(one, other) for one, other in pairs
    )


def test_each_process_holds_half_of_the_weights_and_moments(
    shared: tuple[Path, list[Steps]],
) -> None:
    _, members = shared
    whole = content(shared[0])
    parameters = sum(value.numel() for value in whole["state_dict"].values())
    moments = sum(
        value.numel()
        for state in whole["optimizer_states"][0]["state"].values()
        for value in state.values()
    )
    for steps in members:
        # not quite: tokens and positions have but one row, which is the first one's
        assert steps[-1]["weights_held"] == pytest.approx(parameters / 2, rel=0.15)
        assert steps[-1]["moments_held"] == pytest.approx(moments / 2, rel=0.15)
    assert sum(steps[-1]["weights_held"] for steps in members) == parameters


def test_losses_weights_and_every_stage_are_those_of_one_process(
    shared: tuple[Path, list[Steps]], alone: Path
) -> None:
    ours, theirs = results(shared[0]), results(alone)
    assert losses(shared[0]) == pytest.approx(losses(alone), rel=1e-5)
    assert apart(weights(shared[0]), weights(alone)) < 1e-4
    for stage in ("partial_finetune", "finetune"):  # the average is among these weights
        assert any(name.startswith("ema.") for name in weights(shared[0], stage))
        assert apart(weights(shared[0], stage), weights(alone, stage)) < 1e-4
    assert ours.keys() == theirs.keys()
    for name, one in theirs.items():
        assert ours[name]["fingerprint"] == one["fingerprint"]
        # one image of 1,000
        assert ours[name]["metrics"] == pytest.approx(
            one["metrics"], rel=1e-4, abs=0.11
        ), name


def test_a_checkpoint_of_shares_is_one_processs_file(
    shared: tuple[Path, list[Steps]], alone: Path
) -> None:
    """The same names, shapes, numbers of parameters and groups in the same order, no trace of shares."""
    ours, theirs = content(shared[0]), content(alone)
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


def test_shares_go_on_to_the_bit(
    broken_off: Path, shared: tuple[Path, list[Steps]], tmp_path: Path
) -> None:
    runs = shutil.copytree(broken_off, tmp_path / "runs")
    seen = together(
        tmp_path / "seen",
        2,
        *STEPS,
        SHARED,
        f"runs_dir={runs}",
        "checkpoint.every_steps=1",
    )
    assert {len(steps) for steps in seen} == {9}
    ours, whole = content(runs), content(shared[0])
    assert losses(runs) == losses(shared[0])
    assert all(
        torch.equal(ours["state_dict"][name], value)
        for name, value in whole["state_dict"].items()
    )
    assert same(
        ours["optimizer_states"][0]["state"], whole["optimizer_states"][0]["state"]
    )


def test_one_process_goes_on_from_shares(
    broken_off: Path, alone: Path, tmp_path: Path
) -> None:
    runs = shutil.copytree(broken_off, tmp_path / "runs")
    run(*STEPS, f"runs_dir={runs}")
    assert losses(runs) == pytest.approx(losses(alone), rel=1e-5)
    assert apart(weights(runs), weights(alone)) < 1e-4


def test_shares_go_on_from_one_process(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving = Checkpointing.on_train_batch_end

    def dying(self: Checkpointing, trainer: Any, *args: Any) -> None:
        saving(self, trainer, *args)
        assert trainer.global_step < 11, "as it was planned"

    typed = (*STEPS, f"runs_dir={tmp_path / 'runs'}", "checkpoint.every_steps=1")
    monkeypatch.setattr(Checkpointing, "on_train_batch_end", dying)
    with pytest.raises(AssertionError, match="as it was planned"):
        run(*typed)
    seen = together(tmp_path / "seen", 2, *typed, SHARED)
    assert {len(steps) for steps in seen} == {9}
    assert losses(tmp_path / "runs") == pytest.approx(losses(alone), rel=1e-5)
    assert apart(weights(tmp_path / "runs"), weights(alone)) < 1e-4


def test_a_step_of_shares_that_is_not_finite_is_recorded_whole(tmp_path: Path) -> None:
    """The look comes one step later, as on a GPU: the shares must have waited. One process makes the step again, and
    what it computes in bfloat16 from whole weights is what the shares did.
    """
    half = ("trainer.precision=bf16-mixed", "checkpoint.every_steps=4")
    typed = (*STEPS, *half, SHARED, f"runs_dir={tmp_path / 'runs'}")
    together(tmp_path / "seen", 2, *typed, code=1, INFINITE_AT="5")
    (folder,) = tmp_path.glob("runs/pretrain/*/nonfinite")
    record = json.loads((folder / "record.json").read_text())
    assert (record["step"], record["processes"]) == (5, 2)
    assert record["finite"] == {"loss": True, "gradients": False, "weights": True}
    kept, before = (
        checkpoints.load(folder / record["state"]),
        content(tmp_path / "runs"),
    )
    assert before["global_step"] == 4
    assert all(
        torch.equal(kept["state_dict"][name], value)
        for name, value in before["state_dict"].items()
    )
    assert same(
        kept["optimizer_states"][0]["state"], before["optimizer_states"][0]["state"]
    )
    assert record["parameters"].keys() == before["state_dict"].keys()
    whole = read_record(str(folder))
    assert whole.losses == pytest.approx(
        attempt(rebuild(whole), Cure("as recorded")).losses, rel=1e-6
    )


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (
            ("trainer=fsdp", "trainer.devices=1"),
            "one device holds the whole model, there is nobody to share it with",
        ),
        (
            ("trainer=fsdp", "stages=[linear_probe]"),
            "none of the stages .* trains an encoder",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused(
    overrides: tuple[str, ...], fault: str
) -> None:
    with pytest.raises(ConfigError, match=fault):
        plan_for(*overrides)


def test_a_machine_with_one_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"trainer\.sharded = true: one device"):
        processes(plan_for("trainer=fsdp"))
