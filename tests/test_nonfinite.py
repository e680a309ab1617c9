"""A step that is not finite stops the run before its update, and its record says what it was made of."""

import json
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from planting import infinite_gradient, infinite_weight, stopped
from small_runs import ROOT, environment, run
from unmask.callbacks import nonfinite
from unmask.callbacks.nonfinite_record import of_activations
from unmask.data.loading.sampler import EpochBatches
from unmask.randomness import make_key
from unmask.storage import checkpoints
from unmask.training import fit
from warm_commands import Started

ABSURD = ("stages=[pretrain]", "pretrain.base_lr=1e30", "pretrain.warmup_epochs=0")
IMAGES = list(range(4000))


@pytest.fixture(params=[False, True], ids=["direct", "lagging"])
def lags(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """As on a CPU, and as on a GPU: there the host looks one step later."""
    monkeypatch.setattr(nonfinite, "lagging", lambda device: request.param)
    return request.param


def read(folder: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads((folder / "record.json").read_text(), parse_constant=refuse)


def state(folder: Path) -> dict[str, Any]:
    path = checkpoints.newest(folder)
    assert path is not None
    return torch.load(path, weights_only=True)


def sampled(step: int, micro_batches: int = 1) -> list[list[int]]:
    """What the sampler gives for that step of seed 0, four steps of 1,000 images an epoch."""
    position = (step - 1) * micro_batches
    batches = EpochBatches(
        IMAGES, 1000, micro_batches, make_key(0, "order"), lambda: position
    )
    return [
        [i for _, i in tickets]
        for tickets, _ in zip(batches, range(micro_batches), strict=False)
    ]


def test_the_record_names_the_samples_and_holds_the_state_before_the_step(
    tmp_path: Path, lags: bool
) -> None:
    """Checkpoints at every step: what is recorded is the newest of them, bit for bit, though the journal may be first."""
    folder, said = stopped(tmp_path, *ABSURD, "checkpoint.every_steps=1")
    record = read(folder)
    assert (record["step"], record["loss"], record["finite"]) == (
        2,
        "nan",
        {"loss": False, "gradients": False, "weights": True},
    )
    assert record["samples"] == sampled(2)
    assert said.startswith(
        "the training loss is nan (not finite) at step 2; this step was not made, and"
        " it is kept in"
    )
    assert f"python src/replay.py {folder.parent}" in said
    before, ours = state(folder.parent / "checkpoints"), state(folder)
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


def test_a_look_that_lags_behind_sees_what_a_direct_one_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No checkpoint and no line of the journal is near: the weights must have waited for the look."""
    records, states = [], []
    for lags in (False, True):
        monkeypatch.setattr(nonfinite, "lagging", lambda device, lags=lags: lags)
        folder, _ = stopped(tmp_path / str(lags), *ABSURD)
        records.append(read(folder))
        states.append(state(folder))
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lags: bool
) -> None:
    infinite_weight(monkeypatch, step=6)
    folder, _ = stopped(tmp_path, "stages=[pretrain]", "trainer.micro_batch=250")
    record = read(folder)
    assert (record["step"], record["epoch"], record["finite"]["weights"]) == (
        6,
        1,
        False,
    )
    assert record["samples"] == sampled(6, micro_batches=4)
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lags: bool
) -> None:
    infinite_gradient(monkeypatch, step=12)  # the last one: no later step would look
    folder, said = stopped(tmp_path, "stages=[pretrain]")
    record = read(folder)
    assert record["finite"] == {"loss": True, "gradients": False, "weights": True}
    assert isinstance(record["loss"], float)
    assert all(
        bool(value.isfinite().all()) for value in state(folder)["state_dict"].values()
    )
    assert "and the gradient's norm" in said
    assert not list(tmp_path.glob("*/*/result.json"))
    assert not list(tmp_path.glob("*/*/checkpoints/step=00000012.ckpt"))


def test_lars_cannot_hold_still_and_is_looked_at_directly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lags: bool
) -> None:
    pretraining = "pretrain.epochs=1"
    run(f"runs_dir={tmp_path}", "stages=[pretrain]", pretraining)
    infinite_gradient(monkeypatch, step=3)
    folder, _ = stopped(tmp_path, "stages=[linear_probe]", pretraining)
    assert bool(state(folder)["state_dict"]["model.head.weight"].isfinite().all())


@pytest.mark.parametrize("stage", ["pretrain", "scratch"])
def test_a_healthy_run_leaves_no_record_and_its_weights_do_not_know_of_the_look(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finals = []
    for name in ("without", "direct", "lagging"):
        with monkeypatch.context() as patch:
            if name == "without":
                patch.setattr(fit, "NonfiniteGuard", lambda *_: L.Callback())
            patch.setattr(
                nonfinite, "lagging", lambda device, name=name: name == "lagging"
            )
            run(
                f"runs_dir={tmp_path / name}",
                f"stages=[{stage}]",
                "labels=100" if stage == "scratch" else "seed=0",
            )
        (folder,) = (tmp_path / name).glob("*/*/checkpoints")
        finals.append(state(folder))
    assert not list(tmp_path.glob("*/*/*/nonfinite"))
    for other in finals[1:]:
        assert all(
            torch.equal(value, other["state_dict"][name])
            for name, value in finals[0]["state_dict"].items()
        )
        assert str(finals[0]["optimizer_states"]) == str(other["optimizer_states"])


@pytest.mark.process
@pytest.mark.parametrize("lagging", [False, True])
def test_two_processes_stop_at_the_same_step_and_each_records_its_own_samples(
    lagging: bool, tmp_path: Path
) -> None:
    """A fault in the samples of one: both leave with the weights before the step, none waits for the other for ever."""
    typed = [
        sys.executable,
        str(ROOT / "tests" / "two_processes.py"),
        str(tmp_path),
        "20",
        str(lagging),
    ]
    both = Started(typed, tmp_path, environment())
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
        bool(value.isfinite().all()) for value in state(folder)["state_dict"].values()
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


def test_maxima_hand_on_what_is_not_a_number() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.ReLU())
    found = of_activations(
        model,
        lambda: [model(torch.tensor([[value]])) for value in (3e38, float("nan"), 1.0)],
    )
    assert found == {"0": "nan", "1": "nan"}
