"""The trace: what a step was given and its loss, the same for any micro-batches, and for a run that is cut."""

from pathlib import Path
from typing import Any

import pytest
import torch

from small_runs import run
from unmask.callbacks.tracer import PARTS, TRACE, summed_hashes
from unmask.storage.metrics_log import read


def traced(runs: Path, *overrides: str) -> list[dict[str, Any]]:
    run(f"runs_dir={runs}", "stages=[pretrain]", "pretrain.epochs=2", *overrides)
    (folder,) = runs.glob("pretrain/*")
    return read(folder / TRACE)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two epochs of four steps."""
    return traced(tmp_path_factory.mktemp("whole"), "watch.trace=true")


def test_each_step_has_a_line_of_its_own(whole: list[dict[str, Any]]) -> None:
    assert [(row["step"], row["epoch"]) for row in whole] == [
        (i + 1, i // 4) for i in range(8)
    ]
    for part in (*PARTS, "loss"):
        assert len({row[part] for row in whole}) == 8


def test_a_cut_training_makes_the_first_steps_of_the_whole(
    whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Warm-up and decay are those of all steps: with others, losses would differ from the second step on."""
    assert traced(tmp_path, "watch.trace=true", "stop_after=5") == whole[:5]


def test_micro_batches_change_no_hash(
    whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    cut = traced(
        tmp_path, "watch.trace=true", "stop_after=3", "trainer.micro_batch=250"
    )
    assert [[row[part] for part in PARTS] for row in cut] == [
        [row[part] for part in PARTS] for row in whole[:3]
    ]
    losses = [[float.fromhex(row["loss"]) for row in rows] for rows in (cut, whole[:3])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_who_does_not_ask_gets_none(tmp_path: Path) -> None:
    assert traced(tmp_path, "stop_after=1") == []


def test_a_hash_knows_each_samples_content_but_not_their_order() -> None:
    ids, content = (
        torch.tensor([3, 5, 9]),
        torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0)),
    )
    together, turned = summed_hashes(ids, content), torch.tensor([2, 0, 1])
    assert together.equal(summed_hashes(ids[turned], content[turned]))
    assert together.equal(
        summed_hashes(ids[:1], content[:1]) + summed_hashes(ids[1:], content[1:])
    )
    assert not together.equal(summed_hashes(ids[turned], content)), (
        "each sample has another's pixels"
    )
    nudged = content.clone()
    nudged[1, 0, 0] = torch.nextafter(content[1, 0, 0], torch.tensor(9.0))
    assert not together.equal(summed_hashes(ids, nudged))
    assert (
        summed_hashes(ids, content > 0).shape
        == summed_hashes(ids, content.bfloat16()).shape
        == (2,)
    )
