"""Cells that are forked from a process with all imports are as those newly started."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hydra_plugins import cell_starter
from small_runs import call, command, environment, is_running
from unmask.distributed import forkserver
from unmask.stages.sweeps import SWEEP_VARIABLE

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="cells start warm on Linux"),
]
LONG = ("stages=[pretrain]", "pretrain.epochs=4000", "seed=1,2")
# of a stage's result: what two runs do not share
TIMES = ("seconds", "finished", "git")


def results(runs: Path) -> dict[str, Any]:
    """Return the stages' results, without their times."""
    return {
        path.parent.name: {
            key: value
            for key, value in json.loads(path.read_text()).items()
            if key not in TIMES
        }
        for path in runs.glob("*/*/result.json")
    }


def wait_until(condition: Callable[[], object], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def cell_pids(runs: Path) -> list[int]:
    """Return the processes of cells that have logged steps."""
    folders = [path.parent for path in runs.glob("pretrain/*/metrics.jsonl")]
    return [json.loads((path / "owner.json").read_text())["pid"] for path in folders]


@contextmanager
def sweeping(runs: Path, *more: str) -> Iterator[tuple[subprocess.Popen, list[int]]]:
    """Start a sweep in a new Python; yield it and its two cells, which train."""
    typed = command("-m", f"runs_dir={runs}", *LONG, "hydra.launcher.n_jobs=2", *more)
    with (runs / "printed").open("w") as printed:
        process = subprocess.Popen(
            typed, env=environment(), stdout=printed, stderr=subprocess.STDOUT
        )
        try:
            wait_until(lambda: len(cell_pids(runs)) == 2, process)
            yield process, cell_pids(runs)
        finally:
            process.kill()
            process.wait()


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def has_saved(runs: Path) -> bool:
    indices = list(runs.glob("pretrain/*/checkpoints/last.json"))
    steps = [json.loads(path.read_text())[-1]["step"] for path in indices]
    return len(steps) == 2 and min(steps) > 0


def wait_for_end(*pids: int) -> None:
    deadline = time.monotonic() + 60
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_warm_cells_have_the_results_and_lines_of_cold_ones(tmp_path: Path) -> None:
    typed = (
        "-m",
        "stages=[pretrain,knn]",
        "pretrain.epochs=1",
        "knn.k=20",
        "seed=1,2",
        # two cells that measure at once may choose other kernels
        "trainer.kernels=default",
        "hydra.launcher.n_jobs=2",
    )
    warm, cold = tmp_path / "warm", tmp_path / "cold"
    done = call(*typed, f"runs_dir={warm}", process="new")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.partition("Cells")[0].splitlines()
    assert {line[:6] for line in lines} == {"[1/2] ", "[2/2] "}
    assert sum("The page with curves and pictures" in line for line in lines) == 2
    call(*typed, f"runs_dir={cold}", "hydra.launcher.warm=false", process="forked")
    assert len(results(warm)) == 4
    assert results(warm) == results(cold)


def test_a_killed_cell_fails_alone_and_others_save_when_the_sweep_is_asked_to(
    tmp_path: Path,
) -> None:
    with sweeping(tmp_path) as (process, cells):
        # a parent of their own: the launcher's forkserver; and a session each
        (server,) = {parent(cell) for cell in cells}
        assert parent(server) == process.pid
        assert [os.getsid(cell) for cell in cells] == cells
        os.kill(cells[0], signal.SIGKILL)
        printed = tmp_path / "printed"
        wait_until(lambda: "killed by SIGKILL" in printed.read_text(), process)
        # as when a terminal is lost: all processes of its session get the signal
        os.kill(server, signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 1
        wait_for_end(server, *cells)
    assert "preempted: run me again" in printed.read_text()


def test_warm_cells_save_and_leave_with_their_sweep(tmp_path: Path) -> None:
    with sweeping(tmp_path) as (process, cells):
        process.send_signal(signal.SIGUSR1)
        assert process.wait(timeout=60) == 75
        wait_for_end(*cells)
    assert has_saved(tmp_path)


@pytest.mark.parametrize("killed", ["launcher", "server"])
def test_where_launcher_or_server_is_killed_cells_save_and_none_stays(
    killed: str, tmp_path: Path
) -> None:
    with sweeping(tmp_path) as (process, cells):
        server = parent(cells[0])
        os.kill({"launcher": process.pid, "server": server}[killed], signal.SIGKILL)
        # what became of the cells is not known; they were asked to leave
        code = process.wait(timeout=60)
        assert code == (-signal.SIGKILL if killed == "launcher" else 75)
        wait_for_end(server, *cells)
    assert has_saved(tmp_path)


def test_cells_start_cold_where_the_imports_end_the_server(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('a broken torch')")
    done = call(
        "-m",
        f"runs_dir={tmp_path}",
        "stages=[pretrain]",
        "seed=1,2",
        process="new",
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 1
    assert done.stdout.count("failed (exit 1)") == 4
    assert done.stderr.count("a broken torch") >= 2


def test_a_process_that_nobody_reaps_has_ended() -> None:
    process = subprocess.Popen(["sleep", "60"])
    assert forkserver._is_running(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not forkserver._is_running(process.pid)
    process.wait()
    assert not forkserver._is_running(process.pid)


@pytest.mark.parametrize(("exits", "code"), [(255, 1), (-1, 1), (75, 75), (None, 0)])
def test_no_cell_ends_with_the_code_of_one_that_is_lost(
    exits: int | None, code: int, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"import sys\nsys.exit({exits})\n")
    arguments = [sys.executable, str(script)], dict(os.environ), tmp_path
    process = multiprocessing.get_context("fork").Process(
        target=forkserver._become, args=arguments
    )
    process.start()
    process.join()
    assert process.exitcode == code


class FakeServer:
    """Count processes, in place of a ForkServer that is ready."""

    def __init__(self, _: object) -> None:
        self.is_ready = True
        self.started = 0

    def wait(self, give_up: object) -> bool:
        return True

    def start(self, command: list[str], env: dict[str, str]) -> SimpleNamespace:
        self.started += 1
        return SimpleNamespace()


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return the commands of cells that were started cold; none is run."""
    commands: list[list[str]] = []
    monkeypatch.setattr(cell_starter, "ForkServer", FakeServer)
    monkeypatch.setattr(
        cell_starter, "start_process", lambda typed, _: commands.append(typed)
    )
    return commands


def starter(runs: Path, unfinished: int) -> cell_starter.CellStarter:
    """Return the starter of a sweep of three cells, of which so many lack a result."""
    cells = [
        {
            "overrides": [f"seed={i}"],
            "identity": str(i),
            "stages": [f"pretrain/{i}"],
            "weights": [],
            "tables": [],
        }
        for i in range(3)
    ]
    known = {"arguments": ["seed=0,1,2"], "started": "2026-01-01", "host": "", "pid": 1}
    (runs / "sweeps").mkdir(exist_ok=True)
    (runs / "sweeps" / "id.json").write_text(json.dumps({**known, "cells": cells}))
    for i in range(unfinished, 3):
        (runs / "pretrain" / str(i)).mkdir(parents=True)
        (runs / "pretrain" / str(i) / "result.json").write_text("{}")
    return cell_starter.CellStarter(str(runs), warm=True)


@pytest.mark.parametrize("unfinished", [0, 1])
def test_cells_that_do_not_train_or_train_alone_start_cold(
    unfinished: int,
    cold: list[list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(SWEEP_VARIABLE, "id")
    starts = starter(tmp_path, unfinished)
    for i in range(3):
        starts.wait_for([f"seed={i}"])
        starts.start([f"seed={i}"], {})
    assert [typed[-1] for typed in cold] == ["seed=0", "seed=1", "seed=2"]


def test_a_cell_of_finished_stages_does_not_wait_for_imports(
    cold: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWEEP_VARIABLE, "id")
    starts = starter(tmp_path, 2)
    assert isinstance(starts._server, FakeServer)
    starts._server.is_ready = False
    monkeypatch.setattr(starts._server, "wait", lambda _: pytest.fail("it waits"))
    starts.wait_for(["seed=2"])
    starts.start(["seed=2"], {})
    assert [typed[-1] for typed in cold] == ["seed=2"]


def test_a_cell_runs_the_code_that_stands_in_the_files_when_it_starts(
    cold: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWEEP_VARIABLE, "id")
    state = {"decoder.py": 1}
    monkeypatch.setattr(cell_starter, "_code_state", lambda: dict(state))
    starts = starter(tmp_path, 3)
    starts.start(["seed=0"], {})
    assert isinstance(starts._server, FakeServer)
    assert (starts._server.started, cold) == (1, [])
    state["decoder.py"] = 2
    starts.start(["seed=1"], {})
    assert [typed[-1] for typed in cold] == ["seed=1"]


def test_a_file_that_cannot_be_read_is_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "hydra_plugins"
    package.mkdir()
    (package / "x.py").touch()
    # as Emacs locks what is edited
    (package / ".#x.py").symlink_to("someone@somewhere.1")
    monkeypatch.setattr(cell_starter, "__file__", str(package / "cell_starter.py"))
    script = tmp_path / "train.py"
    script.touch()
    monkeypatch.setattr(sys, "argv", [str(script)])
    names = {Path(path).name for path in cell_starter._code_state()}
    assert names == {"x.py", "train.py"}


def test_another_thread_may_drop_the_server_while_a_cell_starts(
    cold: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWEEP_VARIABLE, "id")
    starts = starter(tmp_path, 3)

    class Dropped(FakeServer):
        @property
        def is_ready(self) -> bool:
            starts._server = None
            return True

        @is_ready.setter
        def is_ready(self, _: bool) -> None: ...

    server = Dropped(())
    starts._server = server  # type: ignore[assignment]
    starts.start(["seed=0"], {})
    assert (server.started, cold) == (1, [])
