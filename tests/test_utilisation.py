"""Model FLOPs utilisation: of a known peak, or of what large products reach on this machine."""

import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from small_runs import plan_for, run
from unmask.callbacks.progress import PeakSpeed
from unmask.storage.metrics_log import read_rows
from unmask.training import product_rate, utilisation
from unmask.training.execute import execute
from unmask.training.flops import count_flops
from unmask.training.outline import pretraining_outline
from unmask.training.product_rate import ProductRate, best_product_rate

CPU = torch.device("cpu")


def test_a_short_stage_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: Any) -> float:
        raise AssertionError("a second of measuring for seconds of training")

    monkeypatch.setattr(utilisation, "best_product_rate", measure)
    run(f"runs_dir={tmp_path}", "stages=[pretrain]", "pretrain.epochs=1")
    (log,) = tmp_path.glob("pretrain/*/metrics.jsonl")
    assert not any("mfu" in key for row in read_rows(log) for key in row)


def test_a_long_one_shows_its_share_of_the_measured_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = 2e10
    monkeypatch.setattr(utilisation, "LONG_FLOPS", 0.0)
    monkeypatch.setattr(utilisation, "best_product_rate", lambda *_: rate)
    plan = plan_for(f"runs_dir={tmp_path}", "stages=[pretrain]")
    output = io.StringIO()
    execute(plan, Console(file=output, width=200))
    flops = count_flops(lambda: pretraining_outline(plan.config)).training
    (log,) = tmp_path.glob("pretrain/*/metrics.jsonl")
    rows = [row for row in read_rows(log) if "train/loss" in row]
    assert rows
    for row in rows:
        expected = row["images_per_second"] * flops / rate
        assert row["mfu_measured"] == pytest.approx(expected, rel=0.01, abs=1e-4)
        assert "mfu" not in row
    shown = re.search(r"images/s  MFU (\d+) % of the measured", output.getvalue())
    assert shown
    assert "of the measured product rate" in output.getvalue()


def test_lengths_of_stages_are_told_apart() -> None:
    class FakeStage:
        def __init__(self, kind: str, *overrides: str) -> None:
            self.config = plan_for(*overrides).config
            self.spec = type("Spec", (), {"kind": kind})
            self.recipe = getattr(self.config, kind)
            self.run = type("Run", (), {"splits": ([None] * 4000, [])})

    def is_long(kind: str, *overrides: str) -> bool:
        stage: Any = FakeStage(kind, *overrides)
        return utilisation._is_long(stage)

    wide = ("model.width=768", "model.depth=12", "data.patch_size=7")
    assert not is_long("pretrain")
    assert is_long("pretrain", *wide, "pretrain.epochs=100")
    # its encoder is frozen
    assert not is_long("linear_probe", *wide, "linear_probe.epochs=100")
    assert is_long("finetune", *wide, "finetune.epochs=100")
    few = ("stages=[pretrain,finetune]", "finetune.labels=10")
    assert not is_long("finetune", *wide, "finetune.epochs=100", *few)
    stopped = ("pretrain.epochs=100", "stop_after=1", "pretrain.batch_size=8")
    assert not is_long("pretrain", *wide, *stopped)


def test_the_share_is_of_the_speed_at_the_peak() -> None:
    assert PeakSpeed(200.0, True).share(122.0) == pytest.approx(0.61)
    assert PeakSpeed(200.0, False).title == "the peak"


def test_the_best_rate_so_far_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = iter([1e9, 3e9, 2e9, 5e8])
    monkeypatch.setattr(ProductRate, "__call__", lambda self: next(rates))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured = [best_product_rate("32-true", CPU) for _ in range(3)]
    assert measured == [1e9, 3e9, 3e9]
    # another precision is another rate
    assert best_product_rate("bf16-mixed", CPU) == 5e8
    assert len(list(tmp_path.glob("unmask/product_rate/*.json"))) == 2


def test_a_rate_that_cannot_be_kept_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ProductRate, "__call__", lambda self: 7e9)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    assert best_product_rate("32-true", CPU) == 7e9
    monkeypatch.setattr(product_rate, "user_cache", lambda: None)
    assert best_product_rate("32-true", CPU) == 7e9


def test_the_rate_of_products_leaves_out_what_takes_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []

    def seconds(self: ProductRate, size: int) -> float:
        sizes.append(size)
        # of a machine of a GFLOP/s
        return 2.0 * size**3 / 1e9

    monkeypatch.setattr(ProductRate, "_seconds", seconds)
    assert ProductRate("32-true", CPU)() == pytest.approx(1e9)
    assert sizes == [512]


def test_the_rate_is_that_of_this_machine() -> None:
    assert 1e8 < ProductRate("32-true", CPU)() < 1e14


def test_sizes_that_fit_no_memory_end_the_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = 1024

    def seconds(self: ProductRate, size: int) -> float:
        if size > largest:
            raise torch.OutOfMemoryError("CUDA out of memory")
        # of a machine of a PFLOP/s
        return 2.0 * size**3 / 1e15

    monkeypatch.setattr(ProductRate, "_seconds", seconds)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert ProductRate("32-true", CPU)() == pytest.approx(1e15)
    largest = 0
    assert best_product_rate("32-true", CPU) == 0
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("error", [RuntimeError("no kernel image"), None])
def test_no_error_of_the_measurement_ends_a_training(
    error: Exception | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: Any) -> float:
        if error:
            raise error
        return 0.0

    monkeypatch.setattr(utilisation, "LONG_FLOPS", 0.0)
    monkeypatch.setattr(utilisation, "best_product_rate", measure)
    config = plan_for(f"runs_dir={tmp_path}", "stages=[pretrain]").config
    output = io.StringIO()
    stage: Any = SimpleNamespace(
        config=config,
        spec=SimpleNamespace(kind="pretrain"),
        recipe=config.pretrain,
        run=SimpleNamespace(
            splits=([None] * 4000, []), plan=SimpleNamespace(num_classes=10)
        ),
        console=Console(file=output, width=200),
    )
    assert utilisation.peak_images_per_second(stage) is None
    assert ("no MFU: no kernel image" in output.getvalue()) == bool(error)
