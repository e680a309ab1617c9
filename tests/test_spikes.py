"""Steps whose loss jumps are skipped and counted; a resumed run skips the same ones."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from small_runs import run
from test_resume import Crash, assert_same, crash_at, final_state
from unmask.callbacks import nonfinite
from unmask.callbacks.nonfinite import SpikeDetector, SpikeRule
from unmask.storage.metrics_log import read_rows
from unmask.tasks.pretrain import Pretrain

RULE = (
    "stages=[pretrain]",
    "spikes.factor=3",
    "spikes.window=2",
    "spikes.limit=2",
    "checkpoint.every_steps=1",
)


def make_loss_jump(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Multiply the loss of those steps (the first is 1) of a pretraining by 100."""
    original = Pretrain.training_step

    def planted(self: Pretrain, *args: Any) -> Tensor:
        return original(self, *args) * (
            100 if self.trainer.global_step + 1 in steps else 1
        )

    monkeypatch.setattr(Pretrain, "training_step", planted)


def test_a_loss_is_compared_with_the_mean_of_the_steps_made_before() -> None:
    spikes = SpikeDetector(SpikeRule(factor=2.0, window=3, limit=1))
    losses = [9.0, 1.0, 2.0, 8.1, 7.9, 8.0, 20.0, 3.0, 40.0]
    verdicts = [bool(spikes.judge(torch.tensor(loss))) for loss in losses]
    # none in the first three; 8.1 > 2 x mean(9, 1, 2); 7.9 is not; 8.0 > 2 x mean(1, 2,
    # 7.9)
    assert verdicts == [False, False, False, True, False, True, True, False, True]
    assert spikes.state_dict()["recent"] == pytest.approx([2.0, 7.9, 3.0])


def test_a_loss_that_is_not_a_number_is_no_spike() -> None:
    spikes = SpikeDetector(SpikeRule(2.0, 1, 0))
    assert [
        bool(spikes.judge(torch.tensor(loss))) for loss in (1.0, math.nan, 5.0)
    ] == [False, False, False]


@pytest.mark.parametrize("late", [False, True])
def test_a_step_that_is_left_out_changes_neither_weights_nor_moments(
    late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The 6th of 12: its checkpoint is that of the 5th but for the position in the data."""
    monkeypatch.setattr(nonfinite, "reads_late", lambda device: late)
    make_loss_jump(monkeypatch, 6)
    kept = []
    for step in (5, 6):
        with monkeypatch.context() as patch:
            crash_at(patch, step)
            with pytest.raises(Crash):
                run(f"runs_dir={tmp_path}", *RULE)
        kept.append(final_state(tmp_path))
    before, after = kept
    assert (before["global_step"], after["global_step"]) == (5, 6)
    assert all(
        torch.equal(after["state_dict"][name], before["state_dict"][name])
        for name in before["state_dict"]
    )
    moments = [content["optimizer_states"][0]["state"] for content in kept]
    assert all(
        torch.equal(moments[1][i][key], moments[0][i][key])
        for i in moments[0]
        for key in moments[0][i]
    )


def test_spikes_are_counted_and_a_resumed_run_leaves_out_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_loss_jump(monkeypatch, 6, 9)
    (whole,) = run(f"runs_dir={tmp_path / 'whole'}", *RULE)
    assert whole["metrics"]["skipped_steps"] == 2
    (path,) = (tmp_path / "whole").glob("pretrain/*/metrics.jsonl")
    assert [
        row["skipped_steps"] for row in read_rows(path) if "skipped_steps" in row
    ] == [0, 1, 2]
    with monkeypatch.context() as patch:
        crash_at(patch, 8)
        with pytest.raises(Crash):
            run(f"runs_dir={tmp_path / 'crashed'}", *RULE)
    (resumed,) = run(f"runs_dir={tmp_path / 'crashed'}", *RULE)
    assert_same(tmp_path / "crashed", tmp_path / "whole")
    assert resumed["metrics"] == whole["metrics"]


def test_one_too_many_ends_the_run_with_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_loss_jump(monkeypatch, 5, 7, 8)
    with pytest.raises(
        FloatingPointError,
        match=(
            r"the training loss jumped to .* at step 8, more than 3 times the mean of 2"
            r" .*number 3, and spikes\.limit=2 allows 2.*base_lr"
        ),
    ):
        run(f"runs_dir={tmp_path}", *RULE)
    (record,) = tmp_path.glob("pretrain/*/nonfinite/record.json")
    assert json.loads(record.read_text())["step"] == 8
    assert final_state(tmp_path)["global_step"] == 7


def test_the_linear_probes_lars_skips_spikes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unmask.tasks.classify import Classify

    original, seen = Classify.training_step, []

    def planted(self: Classify, *args: Any) -> Tensor:
        seen.append(self.model.head.weight.detach().clone())
        return original(self, *args) * (100 if self.trainer.global_step + 1 == 6 else 1)

    monkeypatch.setattr(Classify, "training_step", planted)
    rule = (
        "spikes.factor=3",
        "spikes.window=2",
        "stages=[linear_probe]",
        "pretrain.epochs=1",
        "linear_probe.base_lr=0.01",
    )
    run(f"runs_dir={tmp_path}", *rule)
    assert torch.equal(seen[5], seen[6])
    assert not torch.equal(seen[4], seen[5])
    assert not torch.equal(seen[6], seen[7])


def test_a_checkpoint_counts_spikes_that_the_host_has_not_read_yet() -> None:
    spikes = SpikeDetector(SpikeRule(2.0, 1, 5))
    for loss in (1.0, 9.0, 1.0, 9.0):
        spikes.judge(torch.tensor(loss))
    spikes.count_skipped(2, 9.0)  # the host has read the first alone
    resumed = SpikeDetector(spikes.rule)
    resumed.load_state_dict(spikes.state_dict())
    assert (spikes.skipped, resumed.skipped, resumed.state_dict()["skipped"]) == (
        1,
        2,
        2,
    )
