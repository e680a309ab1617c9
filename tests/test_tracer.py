"""A trace is the same for any micro-batches, and for a run that stops early."""

from pathlib import Path
from typing import Any

import pytest
import torch

from small_runs import run
from unmask.callbacks.tracer import HASHED_PARTS, TRACE_FILE, sum_hashes
from unmask.storage.metrics_log import read_rows


def run_and_read_trace(runs: Path, *overrides: str) -> list[dict[str, Any]]:
    run(f"runs_dir={runs}", "stages=[pretrain]", "pretrain.epochs=2", *overrides)
    (folder,) = runs.glob("pretrain/*")
    return read_rows(folder / TRACE_FILE)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two epochs of four steps."""
    return run_and_read_trace(tmp_path_factory.mktemp("whole"), "watch.trace=true")


def test_each_step_has_one_line(whole: list[dict[str, Any]]) -> None:
    assert [(row["step"], row["epoch"]) for row in whole] == [
        (i + 1, i // 4) for i in range(8)
    ]
    for part in (*HASHED_PARTS, "loss"):
        assert len({row[part] for row in whole}) == 8


def test_a_training_that_stops_early_makes_the_same_first_steps(
    whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Warm-up and decay are those of all steps: with others, losses would differ from the second step on."""
    assert run_and_read_trace(tmp_path, "watch.trace=true", "stop_after=5") == whole[:5]


def test_micro_batches_change_no_hash(
    whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    cut = run_and_read_trace(
        tmp_path, "watch.trace=true", "stop_after=3", "trainer.micro_batch=250"
    )
    assert [[row[part] for part in HASHED_PARTS] for row in cut] == [
        [row[part] for part in HASHED_PARTS] for row in whole[:3]
    ]
    losses = [[float.fromhex(row["loss"]) for row in rows] for rows in (cut, whole[:3])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_without_watch_trace_there_is_no_trace(tmp_path: Path) -> None:
    assert run_and_read_trace(tmp_path, "stop_after=1") == []


def test_a_hash_depends_on_each_samples_content_but_not_on_the_order() -> None:
    ids, content = (
        torch.tensor([3, 5, 9]),
        torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0)),
    )
    together, turned = sum_hashes(ids, content), torch.tensor([2, 0, 1])
    assert together.equal(sum_hashes(ids[turned], content[turned]))
    assert together.equal(
        sum_hashes(ids[:1], content[:1]) + sum_hashes(ids[1:], content[1:])
    )
    assert not together.equal(sum_hashes(ids[turned], content)), (
        "each sample has another's pixels"
    )
    nudged = content.clone()
    nudged[1, 0, 0] = torch.nextafter(content[1, 0, 0], torch.tensor(9.0))
    assert not together.equal(sum_hashes(ids, nudged))
    assert (
        sum_hashes(ids, content > 0).shape
        == sum_hashes(ids, content.bfloat16()).shape
        == (2,)
    )
