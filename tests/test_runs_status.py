"""What runs now, how far a sweep is, and waiting for its end."""

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from planted_ledger import plant, plant_sweep
from unmask.commands.runs import run
from unmask.commands.runs.status import sweep_status
from unmask.stages.progress import Progress, write_progress
from unmask.stages.records import read_ledger

CELLS = tuple((f"mask_ratio={r}", "stages=[pretrain]") for r in (0.5, 0.6, 0.7, 0.8))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def text(capsys: Any, runs: Path, *typed: str) -> str:
    capsys.readouterr()
    run(["status", *typed, f"runs_dir={runs}"])
    return capsys.readouterr().out


def wait(runs: Path, *typed: str) -> int:
    with pytest.raises(SystemExit) as leaving:
        run(["status", *typed, f"runs_dir={runs}", "poll_seconds=0.05"])
    assert isinstance(leaving.value.code, int)
    return leaving.value.code


def unfinished(runs: Path, *overrides: str, host: str = "node7") -> Path:
    (folder,) = plant(runs, *overrides, "stages=[pretrain]", metrics={})
    owner = {"pid": 1234, "host": host, "since": "2026-11-30T12:00:00+00:00"}
    (folder.path / "owner.json").write_text(json.dumps(owner))
    return folder.path


def test_a_running_stage_says_where_and_how_far_it_is(runs: Path, capsys: Any) -> None:
    folder = unfinished(runs, "mask_ratio=0.9")
    write_progress(folder, Progress(50, 200, 0, 100.0, time.time()))
    with FileLock(folder / "lock"):
        name, facts = text(capsys, runs).splitlines()
    assert name == f"pretrain/{folder.name}  pretrain mask_ratio=0.9 s0"
    # 150 steps at 2 s each
    assert "running, step 50 of 200 (25%)" in facts
    assert "5 min left, on node7, process 1234" in facts
    assert text(capsys, runs) == f"nothing runs in {runs}\n"


def test_a_sweep_counts_its_cells_and_the_time_that_is_left(
    runs: Path, capsys: Any
) -> None:
    sweep = plant_sweep(runs, *CELLS)
    plant(runs, *CELLS[0], seconds=100.0)
    folder = unfinished(runs, CELLS[1][0])
    write_progress(folder, Progress(100, 200, 0, 50.0, time.time()))
    with (
        FileLock(folder / "lock"),
        FileLock(runs / "sweeps" / f"{sweep}.lock"),
    ):
        printed = text(capsys, runs)
        ledger = read_ledger(runs)
        status = sweep_status(ledger.sweeps[0], ledger)
    assert status.cells == {
        "done": 1,
        "running": 1,
        "stalled": 0,
        "failed": 0,
        "interrupted": 0,
        "left": 2,
    }
    # 50 s of the second cell; the other two take what the first two take: 100 s each
    assert (status.seconds_left, status.is_complete) == (250.0, True)
    assert "4 cells: 1 done, 1 running, 2 left; about 4 min left" in printed


def test_stages_of_other_sweeps_count_where_a_sweep_has_none(runs: Path) -> None:
    plant_sweep(runs, *CELLS)
    other = ("mask_ratio=0.9", "stages=[pretrain]")
    plant(runs, *other, seconds=30.0)
    (sweep,) = read_ledger(runs).sweeps
    assert sweep_status(sweep, read_ledger(runs)).seconds_left == 4 * 30.0
    plant(runs, *CELLS[0], seconds=100.0)
    assert sweep_status(sweep, read_ledger(runs)).seconds_left == 3 * 100.0


def test_thousands_of_cells_are_counted_at_once(runs: Path) -> None:
    plant_sweep(runs, *CELLS[:1])
    plant(runs, *CELLS[0], seconds=2.0)
    ledger = read_ledger(runs)
    (sweep,) = ledger.sweeps
    cells = [replace(sweep.cells[0], stages=(f"pretrain/{i}",)) for i in range(20_000)]
    start = time.process_time()
    status = sweep_status(replace(sweep, cells=tuple(cells)), ledger)
    # a cell that goes through all cells would take minutes
    assert time.process_time() - start < 5
    assert (status.cells["left"], status.seconds_left) == (20_000, 40_000.0)


def test_a_sweep_that_was_stopped_says_how_to_go_on(runs: Path, capsys: Any) -> None:
    sweep = plant_sweep(runs, *CELLS)
    plant(runs, *CELLS[0])
    unfinished(runs, CELLS[1][0])
    assert text(capsys, runs) == f"nothing runs in {runs}\n"
    printed = text(capsys, runs, sweep[:5])
    assert "4 cells: 1 done, 1 interrupted, 2 left; go on with: python src" in printed


def test_waiting_ends_when_all_that_ran_is_done(runs: Path, capsys: Any) -> None:
    folder = unfinished(runs, "mask_ratio=0.9")
    lock = FileLock(folder / "lock", thread_local=False)
    lock.acquire()

    def finish() -> None:
        plant(runs, "mask_ratio=0.9", "stages=[pretrain]")
        lock.release()

    threading.Timer(0.5, finish).start()
    began = time.monotonic()
    assert wait(runs, "until=done") == 0
    assert time.monotonic() - began > 0.4
    assert "until=done: yes" in capsys.readouterr().out


def test_waiting_for_the_end_ends_where_it_cannot_come(runs: Path) -> None:
    folder = unfinished(runs, "mask_ratio=0.9")
    lock = FileLock(folder / "lock", thread_local=False)
    lock.acquire()
    threading.Timer(0.5, lock.release).start()
    assert wait(runs, "until=done") == 1


def test_a_failure_and_a_stall_are_waited_for(runs: Path) -> None:
    folder = unfinished(runs, "mask_ratio=0.9")
    name = folder.name
    assert wait(runs, name, "until=any-failure") == 1
    (folder / "error.txt").write_text("2026\nValueError: no\n")
    assert wait(runs, name, "until=any-failure") == 0
    write_progress(folder, Progress(1, 2, 0, 1.0, time.time() - 3600))
    with FileLock(folder / "lock"):
        assert wait(runs, name, "until=stalled") == 0


def test_waiting_ends_with_the_code_of_timeout_when_the_time_is_over(
    runs: Path, capsys: Any
) -> None:
    folder = unfinished(runs, "mask_ratio=0.9")
    with FileLock(folder / "lock"):
        assert wait(runs, "until=done", "timeout_minutes=0.005") == 124
    assert "until=done: not within 0.0" in capsys.readouterr().out
