"""Version 0.1's finished stages, half-finished stages and queued jobs go on.

tests/ledgers/before_0_2.tar.xz holds the ledger of a run of 0.1, before modules and
callbacks had their present names: seed 0 is finished, seed 1 left after step 5 of 8.
"""

import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

from small_runs import COARSE, run
from unmask.distributed.submitit_job import CellJob
from unmask.storage.metrics_log import read_rows

LEDGER = Path(__file__).parent / "ledgers" / "before_0_2.tar.xz"
SMALL = (
    COARSE,
    "pretrain.epochs=2",
    "model.width=8",
    "decoder.width=8",
    "spikes.factor=9",
)


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    with tarfile.open(LEDGER) as tar:
        tar.extractall(tmp_path / "earlier", filter="data")
    return tmp_path / "earlier"


def read_results(ledger: Path) -> dict[str, Any]:
    """Return the results in a ledger, by their folder."""
    paths = ledger.glob("*/*/result.json")
    return {
        str(path.parent.relative_to(ledger)): json.loads(path.read_text())
        for path in paths
    }


def test_a_finished_stage_is_returned_and_measured(earlier: Path) -> None:
    before = read_results(earlier)
    results = run(f"runs_dir={earlier}", "stages=[pretrain,knn,linear_probe]", *SMALL)
    assert results[:2] == [
        before[f"{r['stage']}/{r['fingerprint']}"] for r in results[:2]
    ]
    assert results[2]["parent"] == results[0]["fingerprint"]


def test_a_half_finished_stage_goes_on_from_its_checkpoint(
    earlier: Path, tmp_path: Path
) -> None:
    (half,) = {path.parent for path in earlier.glob("pretrain/*/config.yaml")} - {
        path.parent for path in earlier.glob("pretrain/*/result.json")
    }
    run(f"runs_dir={earlier}", "stages=[pretrain]", "seed=1", *SMALL)
    run(f"runs_dir={tmp_path / 'new'}", "stages=[pretrain]", "seed=1", *SMALL)
    (undisturbed,) = (tmp_path / "new").glob("pretrain/*")
    assert undisturbed.name == half.name
    ours, theirs = (
        read_rows(half / "metrics.jsonl"),
        read_rows(undisturbed / "metrics.jsonl"),
    )
    # the mean of steps 5 to 8: step 5 was made by the earlier version, in whose
    # checkpoint the metrics logger's window stands under another name
    assert [row["train/loss"] for row in ours if "train/loss" in row] == pytest.approx(
        [row["train/loss"] for row in theirs if "train/loss" in row], rel=1e-4
    )
    assert (half / "checkpoints" / "step=00000008.ckpt").exists()


def test_renamed_callbacks_keep_the_key_of_their_state(
    earlier: Path,
) -> None:
    run(f"runs_dir={earlier}", "stages=[pretrain]", "seed=2", *SMALL)
    old, new = (
        {
            frozenset(torch.load(path, weights_only=True)["callbacks"])
            for path in earlier.glob("pretrain/*/checkpoints/step=*.ckpt")
            if ("seed: 2" in (path.parents[1] / "config.yaml").read_text()) is recent
        }
        for recent in (False, True)
    )
    assert old == new


def test_a_job_that_waits_in_a_queue_finds_its_class() -> None:
    # as submitit pickled it: the class by the name of its module in 0.1
    queued = b"\x80\x04cunmask.runs.job\nCellJob\n)\x81."
    assert isinstance(pickle.loads(queued), CellJob)
