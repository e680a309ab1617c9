"""A sweep: every cell is a process; finished stages come from the ledger.

Cells that need the same pretraining share it.
"""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from forked import Started
from hydra_plugins import reporting
from small_runs import call, command, environment, has_logged, is_running

pytestmark = pytest.mark.process
QUICK = ("pretrain.epochs=1", "stages=[pretrain,knn]")


def pretrainings(runs: Path) -> int:
    return len(list(runs.glob("pretrain/*/result.json")))


def test_a_sweep_trains_each_cell_once_and_returns_it_from_the_ledger(
    tmp_path: Path,
) -> None:
    arguments = ("-m", f"runs_dir={tmp_path}", *QUICK, "decoder.depth=1,2")
    first = call(*arguments, process="forked")
    assert first.returncode == 0, first.stderr
    assert pretrainings(tmp_path) == 2
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub" / "torch.py").write_text(
        "raise RuntimeError('finished cells need no torch')"
    )
    second = call(*arguments, process="new", env={"PYTHONPATH": str(tmp_path / "stub")})
    assert second.returncode == 0
    # as each cell ends, and in the table
    ended = re.findall(r"^\[\d/2\] from the ledger, .*", second.stdout, re.MULTILINE)
    assert [line.count("1 cell left, about") for line in ended] == [1, 0]
    assert second.stdout.count("from the ledger") == 4
    assert pretrainings(tmp_path) == 2


def test_cells_that_differ_in_a_measurement_share_the_pretraining_even_side_by_side(
    tmp_path: Path,
) -> None:
    done = call(
        "-m",
        f"runs_dir={tmp_path}",
        *QUICK,
        "knn.k=5,20",
        "hydra.launcher.n_jobs=2",
        process="forked",
    )
    assert done.returncode == 0, done.stderr
    assert pretrainings(tmp_path) == 1
    assert len(list(tmp_path.glob("knn/*/result.json"))) == 2
    lines = re.split(r"^Cells", done.stdout, flags=re.MULTILINE)[0].splitlines()
    assert {line[:6] for line in lines} == {
        "[1/2] ",
        "[2/2] ",
    }, "every line must begin with its cell's prefix"


@pytest.mark.parametrize(
    ("swept", "message"),
    [
        (("decoder.heads=2,3",), "decoder.heads = 3"),
        (
            ("trainer.devices=1,3",),
            "pretrain.batch_size = 1000: does not split evenly on 3 processes",
        ),
    ],
)
def test_a_bad_cell_is_refused_before_the_first_starts(
    swept: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    done = call("-m", f"runs_dir={tmp_path}", *QUICK, *swept)
    assert done.returncode == 2
    assert "no cell was started" in done.stderr
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_failed_cell_does_not_stop_the_rest_and_is_redone(tmp_path: Path) -> None:
    """Its stage cannot make its folder: a file has the folder's name."""
    from small_runs import plan_for

    spec = plan_for(*QUICK, "seed=1").stages[0]
    (tmp_path / "pretrain").mkdir()
    obstacle = tmp_path / "pretrain" / spec.fingerprint
    obstacle.write_text("in the way")
    arguments = ("-m", f"runs_dir={tmp_path}", *QUICK, "seed=1,2")
    first = call(*arguments, process="forked")
    assert first.returncode == 1
    assert "cannot write in" in first.stderr
    assert "failed (exit 1)" in first.stdout
    assert pretrainings(tmp_path) == 1
    obstacle.unlink()
    second = call(*arguments, process="forked")
    assert second.returncode == 0
    assert pretrainings(tmp_path) == 2


def test_a_stopped_sweep_saves_and_goes_on(tmp_path: Path) -> None:
    arguments = (
        "-m",
        f"runs_dir={tmp_path}",
        "stages=[pretrain]",
        "pretrain.epochs=12",
        "seed=1,2",
    )
    process = Started(command(*arguments), tmp_path, environment())
    while not has_logged(tmp_path, 2):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    printed = process.stdout.read_text()
    assert "preempted" in printed
    # counted, and no row of the table
    assert "1 cell not started" in printed
    assert printed.count("not started") == 1
    (index,) = tmp_path.glob("pretrain/*/checkpoints/last.json")
    assert json.loads(index.read_text())[-1]["step"] > 0
    assert call(*arguments, process="forked").returncode == 0
    assert pretrainings(tmp_path) == 2


def test_pages_of_a_sweep_are_not_written_after_every_short_cell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    monkeypatch.setattr(reporting.time, "monotonic", lambda: clock[0])
    pages = reporting.Background([sys.executable, "-c", ""])
    pages.start()
    first = pages.process
    assert first is not None
    first.wait()
    clock[0] += reporting.MIN_SECONDS / 2
    pages.start()
    assert pages.process is first
    clock[0] += reporting.MIN_SECONDS
    pages.start()
    assert pages.process is not first
    pages.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="parent-death signals are Linux's")
def test_a_killed_sweep_leaves_no_process_behind(tmp_path: Path) -> None:
    """A cell that stayed would keep the machine's memory and the stage's lock."""
    arguments = (
        "-m",
        f"runs_dir={tmp_path}",
        "stages=[pretrain]",
        "pretrain.epochs=4000",
        "seed=1,2",
    )
    process = subprocess.Popen(
        command(*arguments), env=environment(), stdout=subprocess.PIPE
    )
    while not has_logged(tmp_path, 1):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    (owner,) = tmp_path.glob("pretrain/*/owner.json")
    cell = json.loads(owner.read_text())["pid"]
    deadline = time.monotonic() + 60
    while is_running(cell):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert list(tmp_path.glob("pretrain/*/checkpoints/*.ckpt")), (
        "the cell must save before it leaves"
    )
