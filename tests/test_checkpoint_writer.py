"""Checkpoints are written while training goes on, and are none the worse for it."""

import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from small_runs import COARSE, run
from test_resume import Crash, assert_same, crash_at, undisturbed
from unmask.callbacks.checkpoint_writer import CheckpointWriter
from unmask.callbacks.checkpointing import Checkpointing
from unmask.distributed.processes import received_signals
from unmask.storage import checkpoints

__all__ = ["undisturbed"]


def make_content(step: int) -> dict[str, Any]:
    return {"global_step": step, "state_dict": {"w": torch.full((3,), float(step))}}


class Slow:
    """Make checkpoints.save wait for permission."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.allowed, self.begun, original = (
            threading.Event(),
            threading.Event(),
            checkpoints.save,
        )

        def save(*args: Any, **kwargs: Any) -> Path:
            self.begun.set()
            assert self.allowed.wait(20)
            return original(*args, **kwargs)

        monkeypatch.setattr(checkpoints, "save", save)


def test_a_checkpoint_has_the_state_at_the_call_not_at_the_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, io, state = Slow(monkeypatch), CheckpointWriter(keep=2), make_content(7)
    io.save_checkpoint(state, tmp_path / "checkpoint")
    assert slow.begun.wait(20)
    assert io.is_writing
    io.raise_if_failed()  # does not wait
    state["state_dict"]["w"].zero_()
    slow.allowed.set()
    io.wait()
    path = checkpoints.newest(tmp_path)
    assert path is not None
    assert checkpoints.load(path)["state_dict"]["w"].tolist() == [7, 7, 7]


def test_a_second_checkpoint_waits_for_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, io = Slow(monkeypatch), CheckpointWriter(keep=2)
    io.save_checkpoint(make_content(1), tmp_path / "checkpoint")
    assert slow.begun.wait(20)
    threading.Timer(0.2, slow.allowed.set).start()
    io.save_checkpoint(make_content(2), tmp_path / "checkpoint")
    assert slow.allowed.is_set()
    io.wait()
    assert [entry["step"] for entry in checkpoints.index_entries(tmp_path)] == [1, 2]


def test_a_failed_write_is_raised_at_a_later_step(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (
        f"runs_dir={tmp_path}",
        "stages=[pretrain]",
        COARSE,
        "checkpoint.every_steps=1",
    )
    original = checkpoints.save

    def full(state: dict[str, Any], *args: Any, **kwargs: Any) -> Path:
        if state["global_step"] == 5:
            raise OSError("cannot write: the disk is full")
        return original(state, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", full)
        with pytest.raises(OSError, match="the disk is full"):
            run(*overrides)
    (index,) = tmp_path.glob("pretrain/*/checkpoints/last.json")
    assert json.loads(index.read_text())[-1]["step"] < 5
    run(*overrides)
    assert_same(tmp_path, undisturbed)


def test_a_preempted_run_waits_for_the_disk(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, overrides = (
        Checkpointing.on_train_batch_end,
        (
            f"runs_dir={tmp_path}",
            "stages=[pretrain]",
            COARSE,
        ),
    )

    def preempting(self: Checkpointing, trainer: Any, *args: Any) -> None:
        if trainer.global_step == 5:
            received_signals.append(signal.SIGTERM)
        original(self, trainer, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointing, "on_train_batch_end", preempting)
        slow = Slow(patch)
        threading.Timer(1.0, slow.allowed.set).start()
        with pytest.raises(SystemExit) as leaving:
            run(*overrides)
        assert leaving.value.code == 75
        assert slow.allowed.is_set()
    (index,) = tmp_path.glob("pretrain/*/checkpoints/last.json")
    assert [entry["step"] for entry in json.loads(index.read_text())] == [5]
    run(*overrides)
    assert_same(tmp_path, undisturbed)


def test_the_best_weights_are_kept_beside_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation losses 3, 1, 2 after steps 4, 8, 12; a crash after the best one changes nothing."""
    from unmask.callbacks import checkpointing

    losses = {4: 3.0, 8: 1.0, 12: 2.0}
    validated_at: list[int] = []
    monkeypatch.setattr(
        checkpointing,
        "selection_score",
        lambda metrics: {"val/loss": losses[validated_at[-1]]},
    )
    original = Checkpointing.on_validation_end

    def validated(self: Checkpointing, trainer: Any, module: Any) -> None:
        validated_at.append(trainer.global_step)
        original(self, trainer, module)

    monkeypatch.setattr(Checkpointing, "on_validation_end", validated)
    overrides = (
        f"runs_dir={tmp_path}",
        "stages=[pretrain]",
        COARSE,
        "checkpoint.every_steps=1",
    )
    with monkeypatch.context() as patch:
        crash_at(patch, 9)
        with pytest.raises(Crash):
            run(*overrides)
    (folder,) = tmp_path.glob("pretrain/*/checkpoints")
    best = checkpoints.read_best(folder)
    assert best is not None
    assert (best["file"], best["step"], best["val/loss"]) == (
        "best=00000008.ckpt",
        8,
        1.0,
    )
    run(*overrides)
    assert sorted(path.name for path in folder.glob("*.ckpt")) == [
        "best=00000008.ckpt",
        "step=00000012.ckpt",
    ]
    assert checkpoints.read_best(folder) == best
    kept = checkpoints.load(folder / best["file"])
    assert kept["global_step"] == 8
    assert "optimizer_states" not in kept
    assert kept["unmask"]["stage"] == "pretrain"


@pytest.mark.parametrize(
    ("name", "values", "best"),
    [
        ("val/accuracy", [50.0, 70.0, 70.0, 60.0], 1),
        ("val/loss", [2.0, 1.0, 1.0, 3.0], 1),
    ],
)
def test_accuracies_are_better_when_larger_and_losses_when_smaller(
    name: str, values: list[float], best: int, tmp_path: Path
) -> None:
    for step, value in enumerate(values):
        if checkpoints.is_new_best(tmp_path, {name: value}):
            checkpoints.save_best(make_content(step), tmp_path, {name: value})
    kept = checkpoints.read_best(tmp_path)
    assert kept is not None
    assert kept["step"] == best, "the first of equals"
    assert [path.name for path in tmp_path.glob("*.ckpt")] == [kept["file"]]


def test_best_weights_that_a_kill_left_over_are_removed_at_the_end(
    tmp_path: Path,
) -> None:
    checkpoints.save(make_content(1), tmp_path, 1)
    checkpoints.save_best(make_content(3), tmp_path, {"val/loss": 1.0})
    (tmp_path / "best=00000002.ckpt").write_bytes(
        b"its best.json was written, and then came the kill"
    )
    checkpoints.keep_only_newest(tmp_path)
    assert [path.name for path in tmp_path.glob("best=*.ckpt")] == [
        "best=00000003.ckpt"
    ]


def test_a_full_disk_is_reported_for_the_best_weights_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError("unexpected pos 64 vs 0")  # torch's own words for it

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        OSError, match=r"cannot write .*best=00000003.ckpt: the disk is full or failing"
    ):
        checkpoints.save_best(make_content(3), tmp_path, {"val/loss": 1.0})
    assert not list(tmp_path.iterdir())
