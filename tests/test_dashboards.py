"""Dashboards show each row of the metrics log once, and never harm the training."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fake_wandb import FakeWandb, offline_rows
from small_runs import run
from test_resume import Crash, assert_same, crash_at
from unmask.callbacks import wandb_run
from unmask.callbacks.dashboards import Dashboards
from unmask.callbacks.metrics import MetricsLogger
from unmask.callbacks.wandb_run import STEP_AXIS, WandbRun, WandbRunInfo
from unmask.commands.send import Send, send
from unmask.config.checks import ConfigError
from unmask.storage.metrics_log import read_rows

CARD = WandbRunInfo("pretrain", "0123456789ab", "0123456789ab", {"seed": 0})
ROWS = [
    {"step": 2, "epoch": 0.5, "train/loss": 1.0},
    {"step": 4, "epoch": 1.0, "train/loss": 0.9},
    {"step": 4, "epoch": 1.0, "val/loss": 0.8},
    {"step": 6, "epoch": 1.5, "train/loss": 0.7},
]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWandb]:
    """W&B on loopback, for a service process of this test's own."""
    fake = FakeWandb()
    wandb.teardown()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, value in fake.environment().items():
        monkeypatch.setenv(name, value)
    yield fake
    fake.status, fake.delay = 200, 0.0
    wandb.teardown()
    fake.close()


def make_run(folder: Path, online: bool = False, finish_seconds: float = 2) -> WandbRun:
    return WandbRun(CARD, folder, "unmask", None, online, finish_seconds)


def as_logged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return W&B's rows as the metrics log has them."""
    plain = [
        {key: value for key, value in row.items() if not key.startswith("_")}
        for row in rows
    ]
    return [{"step": row.pop(STEP_AXIS), **row} for row in plain]


def read_offline(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of the one offline run in a stage's folder."""
    (file,) = folder.glob("wandb/*run-*/*.wandb")
    assert file.parent.name.startswith("offline-run-")
    rows = offline_rows(file)
    assert [row["_step"] for row in rows] == sorted({row["_step"] for row in rows})
    return as_logged(rows)


def test_an_interrupted_stage_is_one_run_on_every_dashboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows after the checkpoint are logged again, and still appear once."""
    overrides = (
        f"runs_dir={tmp_path}",
        "stages=[pretrain]",
        "checkpoint.every_steps=3",
        "logger=[wandb,tensorboard]",
    )
    with monkeypatch.context() as patch:
        patch.setattr("unmask.callbacks.metrics.LOG_EVERY", 1)
        for step in (5, 8):
            with monkeypatch.context() as crash:
                crash_at(crash, step)
                with pytest.raises(Crash):
                    run(*overrides)
        run(*overrides)
    (folder,) = tmp_path.glob("pretrain/*")
    rows = read_rows(folder / "metrics.jsonl")
    assert len(rows) == 12 + 3
    assert read_offline(folder) == rows
    (events,) = folder.glob("tensorboard/events.*")
    found = EventAccumulator(str(events.parent))
    found.Reload()
    for key in ("train/loss", "val/loss"):
        expected = [(row["step"], row[key]) for row in rows if key in row]
        assert [(event.step, event.value) for event in found.Scalars(key)] == [
            (s, pytest.approx(v)) for s, v in expected
        ]


def test_a_kill_while_an_offline_run_is_replaced_loses_nothing(
    server: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The earlier one lies beside until the new one is whole; `wandb sync` sees one of them at any time. On a full disk
    W&B cuts its file, and says nothing."""

    def cut() -> None:
        wandb.teardown()
        (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
        os.truncate(file, file.stat().st_size - 100)

    first = make_run(tmp_path)
    first.open(ROWS[:2])
    first.close(75)
    full = make_run(tmp_path)
    full.open(ROWS[:2])
    with monkeypatch.context() as patch:
        patch.setattr(wandb_run, "_end_service", cut)
        with pytest.raises(OSError, match="is cut; is the disk full"):
            full.close(75)
    assert list(tmp_path.glob("wandb/earlier-*-offline-run-*/*.wandb")), (
        "kept, as the new one is not whole"
    )
    shutil.rmtree(next(tmp_path.glob("wandb/offline-run-*")))
    killed = make_run(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(
            killed, "log", lambda row: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            killed.open(ROWS[:2])
    killed.run.finish()
    (kept,) = tmp_path.glob("wandb/earlier-*-offline-run-*/*.wandb")
    assert as_logged(offline_rows(kept)) == ROWS[:2]
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 1
    last = make_run(tmp_path)
    last.open(ROWS[:2])
    for row in ROWS[2:]:
        last.log(row)
    last.close(0)
    assert read_offline(tmp_path) == ROWS
    synced = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", *tmp_path.glob("wandb/offline-run-*")],
        capture_output=True,
        text=True,
    )
    assert as_logged(server.runs[CARD.fingerprint]) == ROWS, synced.stderr


def test_online_rows_that_the_run_has_are_not_sent_again_and_those_it_lacks_are(
    server: FakeWandb, tmp_path: Path
) -> None:
    """Also those of an attempt that was offline, or whose server went away."""
    sent = server.runs
    first = make_run(tmp_path, online=True)
    first.open([])
    for row in ROWS[:3]:
        first.log(row)
    first.close(75)
    assert as_logged(sent[CARD.fingerprint]) == ROWS[:3]
    resumed = make_run(tmp_path, online=True, finish_seconds=1)
    resumed.open(ROWS[:1])
    resumed.log(ROWS[1])
    server.status = 500
    for row in ROWS[2:]:
        resumed.log(row)
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        resumed.close(0)
    assert time.monotonic() - begun < 5
    assert as_logged(sent[CARD.fingerprint]) == ROWS[:3]
    without = make_run(tmp_path)
    without.open(ROWS)
    without.close(0)
    assert list(tmp_path.glob("wandb/offline-run-*/*.synced")), (
        "`wandb sync` would append what W&B has"
    )
    server.status = 200
    again = make_run(tmp_path, online=True)
    again.open(ROWS)
    again.close(0)
    assert as_logged(sent[CARD.fingerprint]) == ROWS
    assert not list(tmp_path.glob("wandb/*offline-run-*"))
    assert not server.other_hosts


def test_under_an_agent_each_stage_is_its_run_and_the_agents_run_has_the_results(
    server: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = {"WANDB_SWEEP_ID": "sweep1", "WANDB_RUN_ID": "agents"}
    for name, value in agent.items():
        monkeypatch.setenv(name, value)
    stage = make_run(tmp_path, online=True)
    stage.open(ROWS)
    stage.close(0)
    assert as_logged(server.runs[CARD.fingerprint]) == ROWS
    assert "agents" not in server.runs
    assert os.environ["WANDB_SWEEP_ID"] == "sweep1"
    knn = {"stage": "knn", "start": "pretrained", "metrics": {"val/accuracy": 60.0}}
    control = {**knn, "start": "random", "metrics": {"val/accuracy": 50.0}}
    monkeypatch.chdir(tmp_path)
    wandb_run.report_to_agent([knn, control], {"seed": 0}, 2)
    (row,) = server.runs["agents"]
    assert row["knn/val/accuracy"] == 60.0
    assert row["knn_random/val/accuracy"] == 50.0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("undisturbed")
    run(f"runs_dir={runs}", "stages=[pretrain]")
    return runs


def test_a_training_outlives_the_death_of_its_dashboards(
    server: FakeWandb,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """W&B's service is killed in mid-run, and TensorBoard's disk is full."""

    def kill(*_: object) -> None:
        (service,) = subprocess.run(
            ["pgrep", "-P", str(os.getpid()), "wandb-core"], capture_output=True
        ).stdout.split()
        os.kill(int(service), signal.SIGKILL)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = MetricsLogger._log_window

    def killing(self: MetricsLogger, trainer: Any) -> None:
        before(self, trainer)
        if self.step == 8:
            time.sleep(1)
            kill()

    monkeypatch.setattr(MetricsLogger, "_log_window", killing)
    monkeypatch.setattr(
        "tensorboard.summary.writer.record_writer.RecordWriter.write", full
    )
    overrides = (
        f"runs_dir={tmp_path}",
        "stages=[pretrain]",
        "logger=[wandb,tensorboard]",
        "logger.wandb.mode=online",
    )
    with pytest.warns(UserWarning, match="failed") as caught:
        run(*overrides)
    texts = sorted(str(warning.message) for warning in caught)
    assert [text.split(" (")[0] for text in texts] == [
        "TensorBoard failed",
        "W&B failed",
    ], texts
    assert "No space left" in texts[0]
    assert f"python src/send.py {tmp_path}/pretrain/" in texts[1]
    assert_same(tmp_path, undisturbed)


class Hanging:
    """A dashboard that takes no row."""

    name, remedy, notes = "a dashboard", "look elsewhere", ["it is slow today"]

    def __init__(self) -> None:
        self.aborted = Event()

    def open(self, rows: list[dict[str, Any]]) -> None:
        self.aborted.wait()

    log = close = open

    def abort(self) -> None:
        self.aborted.set()


def test_a_dashboard_that_hangs_costs_limited_time_and_one_warning() -> None:
    dashboards, begun = Dashboards([(Hanging(), 0.5)]), time.monotonic()
    with warnings.catch_warnings(record=True) as caught, dashboards:
        warnings.simplefilter("always")
        dashboards.start([])
        dashboards.log(ROWS[0])
        assert time.monotonic() - begun < 0.4, "training does not wait"
    assert 0.5 <= time.monotonic() - begun < 3
    assert [str(warning.message) for warning in caught] == [
        "it is slow today",
        (
            "a dashboard failed (it gave no answer for 0.5 seconds); training and"
            " metrics.jsonl go on without it; look elsewhere"
        ),
    ]


def test_a_server_that_is_not_there_makes_the_run_an_offline_one(
    server: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is back, src/send.py sends all rows, and a second call none."""
    monkeypatch.setattr(wandb_run, "CONNECT_SECONDS", 1)
    server.delay = 60.0
    overrides = (
        f"runs_dir={tmp_path}",
        "stages=[pretrain]",
        "logger=wandb",
        "logger.wandb.mode=online",
    )
    with pytest.warns(
        UserWarning,
        match=r"W&B cannot be reached .* logged offline in .*wandb: send it later",
    ):
        run(*overrides)
    (folder,) = tmp_path.glob("pretrain/*")
    rows = read_rows(folder / "metrics.jsonl")
    assert read_offline(folder) == rows
    server.delay = 0.0
    options = Send(folders=[str(folder)], project=None, entity=None, finish_seconds=5)
    monkeypatch.setattr(wandb_run, "CONNECT_SECONDS", 30)
    for message in (
        f"all {len(rows)} rows are in W&B",
        f"all {len(rows)} rows are in W&B, some were before",
    ):
        assert send(folder, options) == message
        assert as_logged(server.runs[folder.name]) == rows
    with pytest.raises(ConfigError, match="no finished stage"):
        send(tmp_path, options)
