"""A non-finite step stops the run before its update; its record can make it again."""

import json
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from forked import Started
from planting import infinite_gradient, infinite_weight, run_until_stopped
from small_runs import ROOT, environment, run
from unmask.callbacks import nonfinite
from unmask.callbacks.nonfinite_record import activation_maxima
from unmask.data.loading.sampler import EpochBatches
from unmask.randomness import make_key
from unmask.storage import checkpoints
from unmask.training import fit

ABSURD = ("stages=[pretrain]", "pretrain.base_lr=1e30", "pretrain.warmup_epochs=0")
IMAGES = list(range(4000))


@pytest.fixture(params=[False, True], ids=["direct", "late"])
def late(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Read the verdict as on a CPU, or one step later, as on a GPU."""
    monkeypatch.setattr(nonfinite, "reads_late", lambda device: request.param)
    return request.param


def load_record(folder: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads((folder / "record.json").read_text(), parse_constant=refuse)


def load_state(folder: Path) -> dict[str, Any]:
    path = checkpoints.newest(folder)
    assert path is not None
    return torch.load(path, weights_only=True)


def expected_samples(step: int, micro_batches: int = 1) -> list[list[int]]:
    """Return what the sampler gives in that step: seed 0, epochs of 4 x 1,000 images."""
    position = (step - 1) * micro_batches
    batches = EpochBatches(
        IMAGES, 1000, micro_batches, make_key(0, "order"), lambda: position
    )
    return [
        [i for _, i in tickets]
        for tickets, _ in zip(batches, range(micro_batches), strict=False)
    ]


def test_the_record_names_the_samples_and_holds_the_state_before_the_step(
    tmp_path: Path, late: bool
) -> None:
    """With checkpoints at every step the record has the newest one, bit for bit, even if the metrics log fails first."""
    folder, message = run_until_stopped(tmp_path, *ABSURD, "checkpoint.every_steps=1")
    record = load_record(folder)
    assert (record["step"], record["loss"], record["finite"]) == (
        2,
        "nan",
        {"loss": False, "gradients": False, "weights": True},
    )
    assert record["samples"] == expected_samples(2)
    assert message.startswith(
        "the training loss is nan (not finite) at step 2; this step was not made; its"
        f" record is in {folder}; lower base_lr"
    )
    assert f"python src/replay.py {folder.parent}" in message
    before, ours = load_state(folder.parent / "checkpoints"), load_state(folder)
    assert ours["global_step"] == before["global_step"] == 1
    assert all(
        torch.equal(ours["state_dict"][name], before["state_dict"][name])
        for name in before["state_dict"]
    )
    moments = [content["optimizer_states"][0]["state"] for content in (ours, before)]
    assert all(
        torch.equal(moments[0][i][key], moments[1][i][key])
        for i in moments[1]
        for key in moments[1][i]
    )
    rates = [
        content["optimizer_states"][0]["param_groups"][0]["lr"]
        for content in (ours, before)
    ]
    assert rates[0] == rates[1] == record["learning_rate"]
    assert ours["unmask"]["config"] == record["config"]


def test_a_late_verdict_is_the_same_as_a_direct_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No checkpoint or log row is near: the weights must have waited for the verdict."""
    records, states = [], []
    for late in (False, True):
        monkeypatch.setattr(nonfinite, "reads_late", lambda device, late=late: late)
        folder, _ = run_until_stopped(tmp_path / str(late), *ABSURD)
        records.append(load_record(folder))
        states.append(load_state(folder))
    assert (
        len({json.dumps({**record, "sha256": "", "config": ""}) for record in records})
        == 1
    )
    assert all(
        torch.equal(value, states[1]["state_dict"][name])
        for name, value in states[0]["state_dict"].items()
    )
    assert str(states[0]["optimizer_states"]) == str(states[1]["optimizer_states"])


def test_an_infinite_weight_is_found_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    infinite_weight(monkeypatch, step=6)
    folder, _ = run_until_stopped(
        tmp_path, "stages=[pretrain]", "trainer.micro_batch=250"
    )
    record = load_record(folder)
    assert (record["step"], record["epoch"], record["finite"]["weights"]) == (
        6,
        1,
        False,
    )
    assert record["samples"] == expected_samples(6, micro_batches=4)
    assert len(record["losses"]) == 4
    assert [
        name
        for name, largest in record["parameters"].items()
        if isinstance(largest, str)
    ] == ["model.decoder.head.weight"]
    broken = [
        name
        for name, largest in record["activations"].items()
        if isinstance(largest, str)
    ]
    assert broken == ["decoder.head"]
    assert "encoder.blocks.0" in record["activations"]


def test_a_gradient_alone_stops_the_run_before_it_spoils_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    infinite_gradient(monkeypatch, step=12)  # the last one: no later step would look
    folder, message = run_until_stopped(tmp_path, "stages=[pretrain]")
    record = load_record(folder)
    assert record["finite"] == {"loss": True, "gradients": False, "weights": True}
    assert isinstance(record["loss"], float)
    assert all(
        bool(value.isfinite().all())
        for value in load_state(folder)["state_dict"].values()
    )
    assert "and the gradient's norm" in message
    assert not list(tmp_path.glob("*/*/result.json"))
    assert not list(tmp_path.glob("*/*/checkpoints/step=00000012.ckpt"))


def test_lars_knows_no_found_inf_and_is_checked_directly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    pretraining = "pretrain.epochs=1"
    run(f"runs_dir={tmp_path}", "stages=[pretrain]", pretraining)
    infinite_gradient(monkeypatch, step=3)
    folder, _ = run_until_stopped(tmp_path, "stages=[linear_probe]", pretraining)
    assert bool(load_state(folder)["state_dict"]["model.head.weight"].isfinite().all())


@pytest.mark.parametrize("stage", ["pretrain", "scratch"])
def test_a_healthy_run_leaves_no_record_and_the_guard_changes_no_weight(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finals = []
    for name in ("without", "direct", "late"):
        with monkeypatch.context() as patch:
            if name == "without":
                patch.setattr(fit, "NonfiniteGuard", lambda *_: L.Callback())
            patch.setattr(
                nonfinite, "reads_late", lambda device, name=name: name == "late"
            )
            run(
                f"runs_dir={tmp_path / name}",
                f"stages=[{stage}]",
                "labels=100" if stage == "scratch" else "seed=0",
            )
        (folder,) = (tmp_path / name).glob("*/*/checkpoints")
        finals.append(load_state(folder))
    assert not list(tmp_path.glob("*/*/*/nonfinite"))
    for other in finals[1:]:
        assert all(
            torch.equal(value, other["state_dict"][name])
            for name, value in finals[0]["state_dict"].items()
        )
        assert str(finals[0]["optimizer_states"]) == str(other["optimizer_states"])


@pytest.mark.process
@pytest.mark.parametrize("late", [False, True])
def test_two_processes_stop_at_the_same_step_and_each_records_its_own_samples(
    late: bool, tmp_path: Path
) -> None:
    """A fault in the samples of one: both stop with the weights before the step, and neither waits for the other."""
    typed = [
        sys.executable,
        str(ROOT / "tests" / "two_processes.py"),
        str(tmp_path),
        "20",
        str(late),
    ]
    # Lightning starts the second one, in a new Python
    own = environment(PYTHONPATH=str(ROOT / "src"))
    both = Started(typed, tmp_path, own)
    both.wait(timeout=120)
    assert both.stdout.read_text().count("the training loss is") == 2, both.said
    folder = tmp_path / "nonfinite"
    first, second = (
        json.loads((folder / name).read_text())
        for name in ("record.json", "record.rank1.json")
    )
    assert first["step"] == second["step"]
    batches = [
        EpochBatches(
            list(range(32)),
            8,
            2,
            make_key(0, "order"),
            lambda: 2 * (first["step"] - 1),
            rank,
            2,
        )
        for rank in (0, 1)
    ]
    assert [first["samples"], second["samples"]] == [
        [[i for _, i in tickets] for tickets, _ in zip(given, range(2), strict=False)]
        for given in batches
    ]
    assert [
        any(20 in ids for ids in record["samples"]) for record in (first, second)
    ] == [not record["finite"]["loss"] for record in (first, second)]
    assert not first["finite"]["gradients"]
    assert not second["finite"]["gradients"]
    assert all(
        bool(value.isfinite().all())
        for value in load_state(folder)["state_dict"].values()
    )
    assert "state" not in second


def test_a_full_disk_does_not_hide_the_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> Path:
        raise OSError("the disk is full")

    monkeypatch.setattr(checkpoints, "save", full)
    with pytest.raises(
        FloatingPointError,
        match=r"loss is nan.*no record of it could be written \(the disk is full\)",
    ):
        run(f"runs_dir={tmp_path}", *ABSURD)


def test_maxima_propagate_nan() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.ReLU())
    found = activation_maxima(
        model,
        lambda: [model(torch.tensor([[value]])) for value in (3e38, float("nan"), 1.0)],
    )
    assert found == {"0": "nan", "1": "nan"}
