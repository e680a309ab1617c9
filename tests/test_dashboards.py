"""Dashboards show each row of the metrics log once, and never harm the training."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fake_wandb import FakeWandb, offline_rows, read_offline_run
from small_runs import ROOT, plan_for, run
from test_resume import Crash, assert_same, crash_at
from unmask.callbacks.metrics import MetricsLogger
from unmask.commands.send import Send, send
from unmask.config.checks import ConfigError
from unmask.config.hardware import peak_flops
from unmask.dashboards import process as follower_process
from unmask.dashboards.agent import report_to_agent
from unmask.dashboards.card import nested, read_card
from unmask.dashboards.follower import Follower, Media
from unmask.dashboards.names import STEP_AXIS, Row, dashboard_row, result_facts
from unmask.dashboards.orders import Job, Message, WandbJob, read_lines
from unmask.dashboards.process import Dashboards
from unmask.dashboards.trackio_run import refuse_missing_trackio
from unmask.storage.metrics_log import append_row, read_rows
from unmask.training import utilisation
from unmask.training.flops import count_flops
from unmask.training.outline import pretraining_outline

ID = "0123456789ab"
ROWS = [
    {"step": 2, "epoch": 0.5, "train/loss": 1.0},
    {"step": 4, "epoch": 1.0, "train/loss": 0.9},
    {"step": 4, "epoch": 1.0, "val/loss": 0.8},
    {"step": 6, "epoch": 1.5, "train/loss": 0.7},
]
OFFLINE = WandbJob("unmask", None, online=False, finish_seconds=5)
ONLINE = WandbJob("unmask", None, online=True, finish_seconds=5)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWandb]:
    """W&B on loopback, for processes of this test's own."""
    fake = FakeWandb()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, value in fake.environment().items():
        monkeypatch.setenv(name, value)
    yield fake
    fake.status, fake.delay = 200, 0.0
    fake.close()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the config of a run, as a stage's folder holds it."""
    return plan_for("stages=[pretrain]").config.to_dict()


def begin_stage(runs: Path, config: dict[str, Any], rows: list[Row]) -> Path:
    """Plant a pretraining that has begun."""
    folder = runs / "pretrain" / ID
    folder.mkdir(parents=True, exist_ok=True)
    content = {"science": {"seed": 0}, "config": config}
    (folder / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    for row in rows:
        append_row(folder / "metrics.jsonl", row)
    return folder


def finish_stage(folder: Path, metrics: dict[str, float], **facts: Any) -> None:
    result = {
        "stage": folder.parent.name,
        "title": folder.parent.name,
        "start": "random",
        "fingerprint": folder.name,
        "metrics": metrics,
        "seconds": 1.0,
        "images": 1000,
        **facts,
    }
    (folder / "result.json").write_text(json.dumps(result))


def show(folder: Path, job: WandbJob, code: int) -> list[str]:
    """Follow a planted stage to its end; return notes and warnings."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dashboards = Dashboards(Job(str(folder), job), 60, texts.append)
        dashboards.__enter__()
        dashboards.begin()
        dashboards.close(code)
    return texts + [str(warning.message) for warning in caught]


def as_logged(rows: list[dict[str, Any]], prefix: str = "pretrain") -> list[Row]:
    """Return W&B's rows as the metrics log has them, without pictures and tables."""
    logged = []
    for row in rows:
        values = {
            key.removeprefix(f"{prefix}/"): value
            for key, value in row.items()
            # facts of a picture or table have points in their names
            if isinstance(value, int | float) and "." not in key
        }
        plain = {k: v for k, v in values.items() if not k.startswith("_")}
        logged.append({"step": plain.pop(STEP_AXIS), **plain})
    # the picture before the first step has a row of its own
    return [row for row in logged if row["step"]]


def offline_file(folder: Path) -> Path:
    """Return the file of the one offline run in a stage's folder."""
    (file,) = folder.glob("wandb/*run-*/*.wandb")
    assert file.parent.name.startswith("offline-run-")
    return file


def read_offline(folder: Path) -> list[Row]:
    rows = offline_rows(offline_file(folder))
    assert [row["_step"] for row in rows] == sorted({row["_step"] for row in rows})
    return as_logged(rows)


def test_an_interrupted_stage_is_one_run_on_every_dashboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows after the checkpoint are logged again, and still appear once."""
    overrides = (
        f"runs_dir={tmp_path}",
        "stages=[pretrain,linear_probe,knn]",
        "checkpoint.every_steps=3",
        "logger=[wandb,tensorboard]",
        "mask_ratio=0.5",
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
        shown = found.Scalars(f"pretrain/{key}")
        assert [(event.step, event.value) for event in shown] == [
            (s, pytest.approx(v)) for s, v in expected
        ]
    assert [e.step for e in found.Images("pretrain/reconstructions")] == [0, 4, 8, 12]
    check_pretraining(folder, rows)
    check_measurements(tmp_path, folder.name)


def check_pretraining(folder: Path, rows: list[Row]) -> None:
    offline = read_offline_run(offline_file(folder))
    assert offline.run.display_name == read_card(folder).name
    assert "mask_ratio=0.5" in offline.run.display_name
    assert offline.run.run_id == folder.name
    assert offline.run.job_type == "pretrain"
    assert offline.config["dial"]["mask_ratio"] == 0.5
    assert offline.config["mask_ratio"] == 0.5
    assert "linear_probe" not in offline.config
    assert "runs_dir" not in offline.config
    losses = [row["val/loss"] for row in rows if "val/loss" in row]
    summary = offline.summary
    assert summary["pretrain/val/loss"] == {"min": min(losses), "last": losses[-1]}
    assert summary["result/pretrain/val/loss"] == losses[-1]
    assert summary["result/steps"] == 12
    assert all(row["gradient_norm"] > 0 for row in rows if "train/loss" in row)
    assert not any("mfu" in row for row in rows), "a CPU's peak is unknown"
    assert all(row["peak_host_memory_gib"] > 0 for row in rows if "train/loss" in row)
    pictures = [
        row["pretrain/reconstructions.caption"]
        for row in offline_rows(offline_file(folder))
        if "pretrain/reconstructions.caption" in row
    ]
    assert [text.partition(":")[0] for text in pictures] == [
        f"epoch {epoch}" for epoch in range(4)
    ]


def check_measurements(runs: Path, parent: str) -> None:
    """Each stage is a run, also one without a log; a classifier has its tables."""
    (probe,) = runs.glob("linear_probe/*")
    offline = read_offline_run(offline_file(probe))
    rows = offline_rows(offline_file(probe))
    assert as_logged(rows, "linear_probe") == read_rows(probe / "metrics.jsonl")
    assert offline.run.run_group == parent
    assert offline.config["parent"] == f"pretrain/{parent}"
    assert offline.config["dial"]["mask_ratio"] == 0.5
    accuracies = [
        row["linear_probe/val/accuracy"]
        for row in rows
        if "linear_probe/val/accuracy" in row
    ]
    best = {"max": max(accuracies), "last": accuracies[-1]}
    assert offline.summary["linear_probe/val/accuracy"] == best
    assert offline.summary["linear_probe/classes"]["_type"] == "table-file"
    assert offline.summary["linear_probe/classes"]["nrows"] == 10
    assert offline.summary["linear_probe/confusion_matrix_table"]["nrows"] == 100
    (knn,) = runs.glob("knn/*")
    offline = read_offline_run(offline_file(knn))
    result = json.loads((knn / "result.json").read_text())
    accuracy = result["metrics"]["val/accuracy"]
    assert offline.summary["result/knn/val/accuracy"] == accuracy
    assert offline.summary["result/images"] == result["images"]
    assert offline.config["dial"]["mask_ratio"] == 0.5
    assert offline.exit_code == 0


def test_a_kill_while_an_offline_run_is_replaced_loses_nothing(
    server: FakeWandb, tmp_path: Path, config: dict[str, Any]
) -> None:
    """The earlier one lies beside until the new one is whole; `wandb sync` sees one of
    them at any time."""
    folder = begin_stage(tmp_path, config, ROWS[:2])
    show(folder, OFFLINE, 1)
    assert read_offline(folder) == ROWS[:2]
    # one that lies aside, as a killed attempt leaves it
    (first,) = folder.glob("wandb/offline-run-*")
    killed = Dashboards(Job(str(folder), OFFLINE), 60, lambda text: None)
    killed.__enter__()
    killed.begin()
    wait_for(lambda: len(list(folder.glob("wandb/*run-*/*.wandb"))) == 2)
    assert killed.process
    os.killpg(killed.process.pid, signal.SIGKILL)
    killed.process.wait()
    (kept,) = folder.glob(f"wandb/earlier-*-{first.name}/*.wandb")
    assert as_logged(offline_rows(kept)) == ROWS[:2]
    assert len(list(folder.glob("wandb/offline-run-*"))) == 1
    for row in ROWS[2:]:
        append_row(folder / "metrics.jsonl", row)
    finish_stage(folder, {"val/loss": 0.8})
    show(folder, OFFLINE, 0)
    assert read_offline(folder) == ROWS
    synced = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", *folder.glob("wandb/offline-run-*")],
        capture_output=True,
        text=True,
    )
    assert as_logged(server.runs[ID]) == ROWS, synced.stderr


def wait_for(is_done: Any, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not is_done():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.05)


def test_online_rows_that_the_run_has_are_not_sent_again_and_those_it_lacks_are(
    server: FakeWandb, tmp_path: Path, config: dict[str, Any]
) -> None:
    """Also those of an attempt that was offline, or whose server went away."""
    folder = begin_stage(tmp_path, config, ROWS[:2])
    notes = show(folder, ONLINE, 1)
    assert len(notes) == 1, "one line of chatter a run"
    assert f"{server.url}/me/unmask/runs/{ID}" in notes[0]
    assert as_logged(server.runs[ID]) == ROWS[:2]
    server.status = 500
    for row in ROWS[2:]:
        append_row(folder / "metrics.jsonl", row)
    impatient = WandbJob("unmask", None, online=True, finish_seconds=1)
    texts = show(folder, impatient, 1)
    assert any("W&B" in text for text in texts)
    assert as_logged(server.runs[ID]) == ROWS[:2]
    finish_stage(folder, {"val/loss": 0.8})
    show(folder, OFFLINE, 0)
    assert list(folder.glob("wandb/offline-run-*/*.synced")), (
        "`wandb sync` would append what W&B has"
    )
    server.status = 200
    show(folder, ONLINE, 0)
    assert as_logged(server.runs[ID]) == ROWS
    assert not list(folder.glob("wandb/*offline-run-*"))
    assert not server.other_hosts
    sent = server.upserts[ID]
    card = read_card(folder)
    assert sent["displayName"] == card.name
    assert sent["groupName"] == ID
    assert sent["jobType"] == "pretrain"
    assert json.loads(sent["config"])["mask_ratio"]["value"] == config["mask_ratio"]


def test_under_an_agent_each_stage_is_its_run_and_the_agents_run_has_the_results(
    server: FakeWandb,
    tmp_path: Path,
    config: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = {"WANDB_SWEEP_ID": "sweep1", "WANDB_RUN_ID": "agents"}
    for name, value in agent.items():
        monkeypatch.setenv(name, value)
    folder = begin_stage(tmp_path, config, ROWS)
    show(folder, ONLINE, 1)
    assert as_logged(server.runs[ID]) == ROWS
    assert "agents" not in server.runs
    knn = {"stage": "knn", "start": "pretrained", "metrics": {"val/accuracy": 60.0}}
    control = {**knn, "start": "random", "metrics": {"val/accuracy": 50.0}}
    monkeypatch.chdir(tmp_path)
    wandb.teardown()
    report_to_agent([knn, control], {"seed": 0}, 2)
    wandb.teardown()
    (row,) = server.runs["agents"]
    assert row["knn/val/accuracy"] == 60.0
    assert row["knn_random/val/accuracy"] == 50.0


def test_a_training_outlives_the_death_of_its_dashboards(
    server: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that follows is killed in mid-run."""
    run(f"runs_dir={tmp_path / 'undisturbed'}", "stages=[pretrain]")
    before = MetricsLogger._log_window

    def killing(self: MetricsLogger, trainer: Any) -> None:
        before(self, trainer)
        if self.step == 8:
            assert self.dashboards.process
            os.killpg(self.dashboards.process.pid, signal.SIGKILL)

    monkeypatch.setattr(MetricsLogger, "_log_window", killing)
    overrides = (
        f"runs_dir={tmp_path / 'ours'}",
        "stages=[pretrain]",
        "logger=[wandb,tensorboard]",
        "logger.wandb.mode=online",
    )
    with pytest.warns(UserWarning, match=r"dashboards ended with -9.*src/send\.py"):
        run(*overrides)
    assert_same(tmp_path / "ours", tmp_path / "undisturbed")


def test_trackio_has_one_run_of_a_stage_and_its_pictures(
    tmp_path: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an optional package, read here by its own interface."""
    pytest.importorskip("trackio")
    folder = begin_stage(tmp_path / "runs", config, ROWS[:2])
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    job = Job(str(folder), trackio="unmask")
    for code in (1, 0):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            dashboards = Dashboards(job, 60)
            dashboards.__enter__()
            dashboards.begin()
            dashboards.close(code)
        if code:
            for row in ROWS[2:]:
                append_row(folder / "metrics.jsonl", row)
            finish_stage(folder, {"val/loss": 0.8})
    script = (
        "import json, trackio; (run,) = trackio.Api().runs('unmask');"
        " from trackio.sqlite_storage import SQLiteStorage as storage;"
        " logs = storage.get_logs('unmask', run.name, run_id=run.id);"
        " print(json.dumps([run.name, run.config, logs]))"
    )
    command = [sys.executable, "-c", script]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    name, described, logs = json.loads(printed.stdout.splitlines()[-1])
    assert name == read_card(folder).name
    assert described["dial"] == nested(read_card(folder).dials)
    losses = [
        (row["step"], row["pretrain/train/loss"])
        for row in logs
        if "pretrain/train/loss" in row
    ]
    assert losses == [(2, 1.0), (4, 0.9), (6, 0.7)]
    assert [row for row in logs if row.get("result/pretrain/val/loss") == 0.8]


def test_trackio_that_is_not_there_is_told_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = plan_for("logger=trackio").config
    monkeypatch.setattr("unmask.dashboards.trackio_run.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"trackio is not installed.*unmask\[trackio"):
        refuse_missing_trackio(asked)
    refuse_missing_trackio(plan_for("logger=wandb").config)


class Recorded:
    """A dashboard that keeps what it is shown, and fails at the value `bad`."""

    name, remedy = "a dashboard", "look elsewhere"

    def __init__(self, bad: float | None = None) -> None:
        self.bad = bad
        self.rows: list[Row] = []
        self.media: list[Media] = []
        self.closed: list[int] = []

    def open(self) -> None: ...

    def log(self, row: Row, media: Media) -> None:
        if self.bad in row.values():
            raise SystemExit("no more")
        self.rows.append(row)
        self.media.append(media)

    def close(self, code: int) -> None:
        self.closed.append(code)


def test_a_follower_shows_each_row_once_and_drops_a_dashboard_that_fails(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    folder = begin_stage(tmp_path, config, [])
    whole, broken, said = Recorded(), Recorded(0.9), list[Message]()
    follower = Follower(read_card(folder), [broken, whole], said.append)
    for row in ROWS[:1]:
        append_row(folder / "metrics.jsonl", row)
    follower.read()
    assert not whole.rows, "rows before `begin` may be taken back"
    follower.begin()
    for row in ROWS[1:3]:
        append_row(folder / "metrics.jsonl", row)
    follower.read()
    assert whole.rows == ROWS[:2], "the row of a validation waits for its picture"
    (folder / "pictures").mkdir()
    picture = folder / "pictures" / "epoch=0001.png"
    picture.touch()
    follower.read()
    assert whole.rows == ROWS[:3]
    assert whole.media[-1] == Media(picture)
    append_row(folder / "metrics.jsonl", ROWS[3])
    finish_stage(folder, {"val/loss": 0.8})
    follower.end(0)
    assert (whole.rows, whole.closed) == (ROWS, [0])
    assert (broken.rows, broken.closed) == (ROWS[:1], [])
    assert [(message.kind, message.text) for message in said] == [
        (
            "fault",
            "a dashboard failed (SystemExit: no more); training and metrics.jsonl go on"
            " without it; look elsewhere",
        )
    ]


def test_a_killed_training_closes_its_dashboards() -> None:
    """The pipe ends, whoever kills: no follower stays behind."""
    read, write = os.pipe()
    os.write(write, b"begin\nend")
    lines = read_lines(read, 0.01)
    assert [next(lines), next(lines)] == ["begin", ""]
    os.close(write)
    assert list(lines) == []
    os.close(read)


def test_a_dashboard_that_hangs_costs_limited_time_and_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = [sys.executable, "-c", "import time; time.sleep(60)"]
    start = subprocess.Popen
    monkeypatch.setattr(
        follower_process.subprocess,
        "Popen",
        lambda command, **named: start(hanging, **named),
    )
    begun = time.monotonic()
    dashboards = Dashboards(Job(str(tmp_path), OFFLINE), 0.5)
    dashboards.__enter__()
    dashboards.begin()
    dashboards.report()
    assert time.monotonic() - begun < 0.4, "training does not wait"
    with pytest.warns(UserWarning, match=r"no answer for 0.5 seconds.*src/send\.py"):
        dashboards.close(0)
    assert 0.5 <= time.monotonic() - begun < 3


def test_a_server_that_is_not_there_makes_the_run_an_offline_one(
    server: FakeWandb,
    tmp_path: Path,
    config: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When it is back, src/send.py sends all rows, and a second call none."""
    server.status = 403
    folder = begin_stage(tmp_path, config, ROWS)
    finish_stage(folder, {"val/loss": 0.8})
    texts = show(folder, ONLINE, 0)
    assert "W&B cannot be reached" in texts[1]
    assert "is logged offline in" in texts[1]
    assert "python src/send.py" in texts[1]
    assert read_offline(folder) == ROWS
    options = Send(
        folders=[str(folder)],
        project=None,
        entity=None,
        weights=False,
        finish_seconds=5,
    )
    with pytest.raises(OSError, match="W&B failed"):
        send(folder, options)
    server.status = 200
    for last in ("all 4 rows are in W&B", "all 4 rows are in W&B, some were before"):
        assert send(folder, options)[-1] == last
        assert as_logged(server.runs[ID]) == ROWS
    with pytest.raises(ConfigError, match="no finished stage"):
        send(tmp_path, options)


def test_send_draws_the_lineage_from_a_pretraining_to_its_probe(
    server: FakeWandb, tmp_path: Path, config: dict[str, Any]
) -> None:
    pretraining = begin_stage(tmp_path, config, ROWS)
    finish_stage(pretraining, {"val/loss": 0.8})
    probe = tmp_path / "knn" / "ba9876543210"
    probe.mkdir(parents=True)
    shutil.copy(pretraining / "config.yaml", probe)
    finish_stage(probe, {"val/accuracy": 50.0}, parent=ID, start="pretrained")
    (probe / "origin.json").write_text(json.dumps({"parent": f"pretrain/{ID}"}))
    options = Send(
        folders=[str(probe)], project=None, entity=None, weights=False, finish_seconds=9
    )
    assert any("no lineage" in note for note in send(probe, options))
    assert not server.inputs
    send(pretraining, options)
    send(probe, options)
    assert server.artifacts[f"pretrain-{ID}"]["artifactTypeName"] == "pretrain"
    assert server.artifacts["knn-ba9876543210"]["runName"] == probe.name
    assert server.inputs == [(probe.name, f"pretrain-{ID}")]


def test_a_sweep_of_wandb_types_what_train_takes() -> None:
    """The arguments are those that `wandb agent` makes of the sweep's file."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    sweep = yaml.safe_load((ROOT / "experiments" / "wandb_sweep.yaml").read_text())
    assert (ROOT / sweep["program"]).is_file()
    known = sweep["parameters"]
    args = {key: {"value": spec["values"][-1]} for key, spec in known.items()}
    typed = create_sweep_command_args({"args": args})["args_no_hyphens"]
    after = sweep["command"].index("${args_no_hyphens}")
    config = plan_for(*typed, *sweep["command"][after + 1 :], tiny=False).config
    assert config.mask_ratio == known["mask_ratio"]["values"][-1]
    assert config.decoder.depth == known["decoder.depth"]["values"][-1]
    assert config.logger.wandb is not None
    assert config.logger.wandb.mode == "online"
    stage, metric = sweep["metric"]["name"].split("/", 1)
    assert stage in config.stages
    assert metric == "val/accuracy"


def test_the_peak_of_a_device_is_known_by_its_name_alone() -> None:
    assert peak_flops("NVIDIA H200", "bf16-mixed") == 989e12
    assert peak_flops("NVIDIA GeForce RTX 4090", "32-true") == 82.6e12
    # another peak than the SXM's, which conf/hardware has
    assert peak_flops("NVIDIA H100 PCIe", "bf16-mixed") is None


def test_a_stage_of_a_sweep_is_in_its_group_and_a_row_of_tables_in_theirs(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    folder = begin_stage(tmp_path, config, [])
    assert read_card(folder).group == ID
    cell = {
        "overrides": ["mask_ratio=0.75", "labels=100"],
        "identity": "i",
        "stages": [f"pretrain/{ID}"],
        "weights": [],
        "tables": [],
    }
    sweep = {
        "arguments": ["mask_ratio=0.5,0.75", "labels=100"],
        "started": "2026-01-01T00:00:00+00:00",
        "host": "here",
        "pid": 1,
        "cells": [cell],
    }
    path = tmp_path / "sweeps" / "abcdef012345.json"
    path.parent.mkdir()
    path.write_text(json.dumps(sweep))
    card = read_card(folder)
    assert card.group == "mask_ratio=0.5,0.75 (abcdef012345)"
    assert card.config["sweep"] == card.group
    assert card.tags == []
    # the default value, which others of the sweep do not have; a probe's is no dial here
    assert "mask_ratio" not in card.record.dials
    assert card.config["dial"]["mask_ratio"] == 0.75
    assert "labels" not in card.config["dial"]
    cell["tables"] = [["decoder_depth", "8"], ["mask_ratio", "75"]]
    path.write_text(json.dumps(sweep))
    card = read_card(folder)
    assert card.group == "decoder_depth"
    assert card.tags == ["decoder_depth", "mask_ratio", "Table 1a", "Figure 5"]
    assert card.config["experiment"] == "decoder_depth"
    assert card.config["cell"] == "8"
    assert card.config["table"] == {"decoder_depth": "8", "mask_ratio": "75"}


def test_folders_of_this_machine_are_in_no_config(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    private = "/home/somebody/secret project"
    config = json.loads(json.dumps(config))
    config["runs_dir"] = config["data"]["root"] = private
    config["init_from"] = f"{private}/weights.pth"
    folder = begin_stage(tmp_path, config, [])
    sent = read_card(folder).config
    assert "somebody" not in json.dumps(sent)
    assert sent["dial"]["init_from"] == "weights.pth"


def test_each_name_means_one_thing() -> None:
    row = {"step": 4, "epoch": 1.0, "val/loss": 0.8}
    assert dashboard_row("pretrain", row) == {"epoch": 1.0, "pretrain/val/loss": 0.8}
    result = {
        "metrics": {"val/accuracy": 50.0, "parameters": 10},
        "seconds": 1.5,
        "title": "kNN",
        "versions": {"torch": "2"},
    }
    assert result_facts("knn_random", result) == {
        "result/knn_random/val/accuracy": 50.0,
        "result/parameters": 10,
        "result/seconds": 1.5,
        "result/versions/torch": "2",
    }


def test_dials_become_sections_without_points_in_their_names() -> None:
    dials = {"model": "mae_vit_b", "model.width": 64, "decoder.depth": 2, "labels": 100}
    assert nested(dials) == {
        "model": {"name": "mae_vit_b", "width": 64},
        "decoder": {"depth": 2},
        "labels": 100,
    }
    assert nested({"model.width": 64, "model": "b"}) == {
        "model": {"width": 64, "name": "b"}
    }


def test_mfu_is_the_models_flops_as_a_share_of_a_known_peak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a known peak no row has one: no number is invented."""
    peak = 2e10
    monkeypatch.setattr(utilisation, "device_name", lambda stage: "a known device")
    monkeypatch.setattr(utilisation, "peak_flops", lambda name, precision: peak)
    overrides = (f"runs_dir={tmp_path}", "stages=[pretrain]", "pretrain.epochs=1")
    run(*overrides)
    config = plan_for(*overrides).config
    flops = count_flops(lambda: pretraining_outline(config)).training
    (log,) = tmp_path.glob("pretrain/*/metrics.jsonl")
    rows = [row for row in read_rows(log) if "train/loss" in row]
    assert rows
    for row in rows:
        expected = row["images_per_second"] * flops / peak
        assert row["mfu"] == pytest.approx(expected, rel=0.01, abs=1e-4)
        assert row["mfu"] > 0
