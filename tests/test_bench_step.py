"""The step benchmark takes turns, drops its warm-up, and times the same work on both sides."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from small_runs import call
from unmask.commands.bench.arguments import Bench
from unmask.commands.bench.measure import Contestant, time_in_turn
from unmask.commands.bench.step import compare_steps, our_step, vitmae_step
from unmask.config.checks import ConfigError, validate

SPEC: dict = {
    "subject": "step",
    "patch_size": 4,
    "image_size": 16,
    "channels": 3,
    "mask_ratio": 0.75,
    "norm_pix": True,
    "batch": 4,
    "rounds": 2,
    "threads": None,
    "seconds": 1,
    "device": "cpu",
    "model": {"width": 32, "depth": 1, "heads": 2},
    "decoder": {"width": 16, "depth": 1, "heads": 2},
}


def test_contestants_take_turns_and_the_warm_up_is_dropped() -> None:
    turns: list[str] = []
    steps = {
        name: Contestant(lambda turn, name=name: turns.append(name)) for name in "ab"
    }
    seconds = time_in_turn(steps, rounds=3, warm_up=2)
    assert turns == ["a", "b"] * 5
    assert [len(taken) for taken in seconds.values()] == [3, 3]


def test_both_steps_train_on_the_images() -> None:
    pytest.importorskip("transformers")
    images, noise = torch.randn(4, 3, 16, 16), torch.rand(4, 16)
    for make in (our_step, vitmae_step):
        step = make(SPEC, images, noise)
        losses = [step() for _ in range(30)]
        assert losses[-1] < losses[0]


def test_the_ratio_of_ours_to_ours_is_one() -> None:
    pytest.importorskip("transformers")
    measured = compare_steps(SPEC)
    assert measured["unmask"]["ratio"] == 1
    assert all(
        row["least"] <= row["median"] <= row["most"] for row in measured.values()
    )


@pytest.mark.process
def test_the_command_prints_both_rows() -> None:
    pytest.importorskip("transformers")
    small = (
        "batch=1",
        "rounds=1",
        "image_size=32",
        "patch_size=4",
        "model.depth=1",
        "decoder.depth=1",
        "model=mae_vit_ti",
    )
    done = call(*small, script="bench.py", tiny=False)
    assert done.returncode == 0, done.stderr
    assert "unmask" in done.stdout
    assert "transformers ViTMAE" in done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"image_size": 30},
            "image_size = 30: .*patch_size=4.*32",
        ),
        ({"rounds": 0}, "rounds = 0"),
        ({"batch": -1}, "batch = -1"),
        ({"device": "x"}, "device = 'x'"),
        ({"mask_ratio": 1.0}, "mask_ratio = 1.0"),
        ({"device": "x", "rounds": 0}, "rounds = 0.*\ndevice = 'x'"),
    ],
)
def test_all_arguments_out_of_range_are_named_together(
    change: dict, message: str
) -> None:
    model = {"name": "x", "mlp_ratio": 4.0, "patch_size_at_224": 16}
    spec = {
        **SPEC,
        "source": "folder",
        "image_size": 32,
        "model": {**SPEC["model"], **model},
        "decoder": {**SPEC["decoder"], "mlp_ratio": 4.0},
        **change,
    }
    with pytest.raises(ConfigError, match=message):
        validate(Bench, spec)


def test_the_cost_of_callbacks_and_checkpoints_is_measured_by_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer is so slow that steps run beside it; test_checkpoint_writer tests that none waits for it."""
    from unmask.commands.bench.callbacks import measure_overhead
    from unmask.storage import checkpoints

    original = checkpoints.save

    def slow(*args: Any, **kwargs: Any) -> Path:
        time.sleep(0.05)
        return original(*args, **kwargs)

    monkeypatch.setattr(checkpoints, "save", slow)
    overhead = measure_overhead(SPEC)
    assert set(overhead.guards) == {
        "watchdog",
        "nonfiniteguard",
        "metricslogger",
        "checkpointing",
        "stageprogress",
    }
    assert all(0 < seconds < overhead.step for seconds in overhead.guards.values())
    copy, slower, both = overhead.checkpoint.values()
    assert copy > 0
    assert both == pytest.approx(copy + slower)
