"""What the ledger says of each stage: its dials, state, parents, sweep and result."""

import json
import os
import tarfile
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from filelock import FileLock

from planted_ledger import METRICS, plant, plant_sweep
from small_runs import run
from test_earlier_ledgers import LEDGER
from unmask.stages.progress import STALLED_MINUTES, Progress, write_progress
from unmask.stages.records import RunRecord, read_ledger

NINE = ("mask_ratio=0.9", "seed=1", "stages=[pretrain,knn]")


def only(runs: Path, kind: str, start: str = "pretrained") -> RunRecord:
    (record,) = [
        record
        for record in read_ledger(runs).records
        if record.kind == kind
        and record.start in (start, "random")[: 1 + (kind == "pretrain")]
    ]
    return record


def test_a_record_says_what_differs_in_all_that_its_result_depends_on(
    tmp_path: Path,
) -> None:
    plant(tmp_path, *NINE, "knn.k=5", "linear_probe.epochs=3")
    pretrain, knn = only(tmp_path, "pretrain"), only(tmp_path, "knn")
    assert pretrain.dials == {"mask_ratio": 0.9}
    assert pretrain.name == "pretrain mask_ratio=0.9 s1"
    assert knn.dials == {"mask_ratio": 0.9, "knn.k": 5}
    assert knn.parent == pretrain.key
    assert knn.metrics == METRICS["knn"]


def test_controls_depend_on_what_they_see_alone(tmp_path: Path) -> None:
    plant(tmp_path, *NINE)
    names = {r.name for r in read_ledger(tmp_path).records}
    # raw pixels have no weights, and kNN draws nothing
    assert names == {
        "pretrain mask_ratio=0.9 s1",
        "kNN mask_ratio=0.9 s1",
        "kNN, random encoder s1",
        "kNN, raw pixels",
    }


def test_training_from_scratch_shows_the_dials_that_its_recipe_follows(
    tmp_path: Path,
) -> None:
    plant(
        tmp_path,
        "stages=[scratch]",
        "finetune.epochs=5",
        "labels=1000",
        "mask_ratio=0.9",
    )
    (record,) = read_ledger(tmp_path).records
    assert record.dials == {"labels": 1000, "finetune.epochs": 5}


def test_loading_is_no_dial(tmp_path: Path) -> None:
    plant(tmp_path, "data.num_workers=3", "trainer.timeout_minutes=3", "stages=[knn]")
    assert {r.name for r in read_ledger(tmp_path).records if r.seed is None} == {
        "kNN, raw pixels"
    }
    assert not any(r.dials for r in read_ledger(tmp_path).records)


def test_the_command_is_recorded_and_the_first_beginning_stays(tmp_path: Path) -> None:
    (folder, *_) = plant(tmp_path, "mask_ratio=0.9", "experiment=demo", metrics={})
    path = folder.path / "origin.json"
    path.write_text(
        json.dumps(
            json.loads(path.read_text()) | {"started": "2026-01-01T00:00:00+00:00"}
        )
    )
    plant(tmp_path, "mask_ratio=0.9", "experiment=demo", "trainer=cpu", metrics={})
    record = only(tmp_path, "pretrain")
    assert record.origin.command == (
        "python src/train.py mask_ratio=0.9 experiment=demo trainer=cpu"
    )
    assert record.experiment == "demo"
    assert record.started == datetime(2026, 1, 1, tzinfo=UTC)


def test_a_sweep_tells_which_cell_a_stage_is_of(tmp_path: Path) -> None:
    cells = (("mask_ratio=0.5",), ("mask_ratio=0.75",))
    sweep = plant_sweep(tmp_path, *cells, tables={cells[0]: [("mask_ratio", "50")]})
    for cell in cells:
        plant(tmp_path, *cell, "stages=[pretrain]", sweep=sweep)
    half, default = sorted(
        read_ledger(tmp_path).records, key=lambda record: -len(record.dials)
    )
    assert (half.sweep, half.experiment, half.cell) == (sweep, "mask_ratio", "50")
    assert (default.sweep, default.experiment, default.cell) == (sweep, None, None)


def test_the_same_cells_are_the_same_sweep(tmp_path: Path) -> None:
    cells = (("mask_ratio=0.5",), ("mask_ratio=0.75",))
    first = plant_sweep(tmp_path, *cells)
    assert plant_sweep(tmp_path, *cells) == first
    assert plant_sweep(tmp_path, *cells, ("seed=1",)) != first
    (known, _) = sorted(read_ledger(tmp_path).sweeps, key=lambda s: len(s.cells))
    assert known.title == "mask_ratio=0.5,0.75"
    assert not known.is_driven
    with FileLock(known.path.with_suffix(".lock")):
        assert known.is_driven


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    (folder,) = plant(tmp_path, "stages=[pretrain]", metrics={})
    owner = {"pid": 1, "host": "here", "since": "2026-11-30T12:00:00+00:00"}
    (folder.path / "owner.json").write_text(json.dumps(owner))
    return folder.path


def state(folder: Path) -> str:
    return only(folder.parents[1], "pretrain").state


def test_a_stage_that_nobody_works_on_is_interrupted(unfinished: Path) -> None:
    assert state(unfinished) == "interrupted"


def test_a_stage_whose_lock_is_held_runs(unfinished: Path) -> None:
    with FileLock(unfinished / "lock"):
        assert state(unfinished) == "running"
    assert state(unfinished) == "interrupted"


@pytest.mark.parametrize(("minutes", "expected"), [(-1, "running"), (1, "stalled")])
def test_a_training_that_says_nothing_for_long_has_stalled(
    unfinished: Path, minutes: float, expected: str
) -> None:
    at = time.time() - 60 * (STALLED_MINUTES + minutes)
    write_progress(unfinished, Progress(50, 200, 0, 10.0, at))
    with FileLock(unfinished / "lock"):
        assert state(unfinished) == expected


def test_an_error_of_the_last_attempt_is_a_failure(unfinished: Path) -> None:
    error = unfinished / "error.txt"
    error.write_text("2026\nTraceback\nValueError: what went wrong\n")
    assert state(unfinished) == "failed"
    # a later attempt has begun since
    os.utime(error, (1, 1))
    assert state(unfinished) == "interrupted"
    error.write_text("2026\nTraceback\nKeyboardInterrupt\n")
    assert state(unfinished) == "interrupted"


def test_a_damaged_result_is_a_state_and_no_error(unfinished: Path) -> None:
    (unfinished / "result.json").write_text("{")
    record = only(unfinished.parents[1], "pretrain")
    assert record.state == "damaged"
    assert record.damage
    assert "remove it to redo the stage" in record.damage


def test_time_left_is_that_of_the_steps_of_this_attempt() -> None:
    # 150 steps in 30 s, since it went on at step 100
    assert Progress(250, 400, 100, 30.0, 0.0).seconds_left == 30.0
    assert Progress(100, 400, 100, 0.0, 0.0).seconds_left is None


def test_a_record_counts_all_files_of_its_stage(tmp_path: Path) -> None:
    (folder,) = plant(tmp_path, "stages=[pretrain]")
    before = only(tmp_path, "pretrain").bytes
    folder.checkpoints.mkdir()
    (folder.checkpoints / "step=00000001.ckpt").write_bytes(bytes(1000))
    assert only(tmp_path, "pretrain").bytes == before + 1000


def test_a_ledger_of_an_early_version_is_read(tmp_path: Path) -> None:
    with tarfile.open(LEDGER) as tar:
        tar.extractall(tmp_path, filter="data")
    records = read_ledger(tmp_path).records
    assert {(r.title, r.state, r.seed) for r in records} == {
        ("pretrain", "done", 0),
        ("kNN", "done", 0),
        ("pretrain", "interrupted", 1),
    }
    (knn,) = [record for record in records if record.kind == "knn"]
    assert knn.parent in {record.key for record in records}


def test_a_run_leaves_its_record(tmp_path: Path) -> None:
    run(
        f"runs_dir={tmp_path}",
        "stages=[pretrain]",
        "mask_ratio=0.5",
        "data.patch_size=14",
    )
    record = only(tmp_path, "pretrain")
    assert record.state == "done"
    assert record.dials["mask_ratio"] == 0.5
    assert record.measure
    assert record.measure.unit == "validation loss"
    assert record.curves == record.folder / "metrics.jsonl"
    # it says how far it is only while it runs
    assert not (record.folder / "progress.json").exists()
    assert record.ended
    assert record.started
    assert record.started <= record.ended


def test_an_empty_ledger_has_no_records(tmp_path: Path) -> None:
    ledger = read_ledger(tmp_path / "missing")
    assert (ledger.records, ledger.sweeps) == ((), ())
