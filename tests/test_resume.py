"""Interrupted anywhere, the same command continues to the weights of an undisturbed run."""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from forked import Started
from small_runs import COARSE, call, command, environment, image_folder, plan_for, run
from unmask.callbacks.checkpointing import PREEMPTED, Checkpointing
from unmask.callbacks.metrics import MetricsLogger
from unmask.stages.ledger import StageFolder
from unmask.storage import checkpoints
from unmask.storage.metrics_log import MACHINE_KEYS, read_rows
from unmask.training import stages

MEASURED = (
    "stages=[pretrain,knn,linear_probe]",
    COARSE,
    "pretrain.epochs=1",
    "checkpoint.every_steps=3",
)


class Crash(Exception):
    pass


def final_state(runs: Path, stage: str = "pretrain") -> dict:
    (folder,) = (runs / stage).iterdir()
    path = checkpoints.newest(folder / "checkpoints")
    assert path is not None
    return checkpoints.load(path)


def drop_speed(rows: list[dict]) -> list[dict]:
    return [
        {key: value for key, value in row.items() if key not in MACHINE_KEYS}
        for row in rows
    ]


def assert_same(ours: Path, undisturbed: Path, stage: str = "pretrain") -> None:
    """Compare weights, Adam's moments and every row of the metrics log, bit for bit."""
    a, b = final_state(ours, stage), final_state(undisturbed, stage)
    assert a["state_dict"].keys() == b["state_dict"].keys()
    assert all(
        torch.equal(a["state_dict"][name], b["state_dict"][name])
        for name in a["state_dict"]
    )
    moments = [state["optimizer_states"][0]["state"] for state in (a, b)]
    assert all(
        torch.equal(moments[0][i][k], moments[1][i][k])
        for i in moments[0]
        for k in ("exp_avg", "exp_avg_sq")
    )
    logs = [
        drop_speed(read_rows(next((runs / stage).glob("*/metrics.jsonl"))))
        for runs in (ours, undisturbed)
    ]
    assert logs[0] == logs[1]


def crash_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Crash after `step` optimiser steps, when all of that step is written."""
    original = Checkpointing.on_train_batch_end

    def dying(self: Checkpointing, trainer: object, *args: object) -> None:
        original(self, trainer, *args)  # type: ignore[arg-type]
        if trainer.global_step == step:  # type: ignore[attr-defined]
            raise Crash

    monkeypatch.setattr(Checkpointing, "on_train_batch_end", dying)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs of four steps."""
    runs = tmp_path_factory.mktemp("undisturbed")
    run(f"runs_dir={runs}", "stages=[pretrain]", COARSE)
    return runs


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("step", [1, 3, 4, 5, 6, 8, 9, 11])
def test_a_crash_at_any_step_changes_nothing(
    step: int,
    every: int,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    overrides = (
        f"runs_dir={tmp_path}",
        "stages=[pretrain]",
        COARSE,
        f"checkpoint.every_steps={every}",
    )
    with monkeypatch.context() as patch:
        crash_at(patch, step)
        with pytest.raises(Crash):
            run(*overrides)
    run(*overrides)
    assert_same(tmp_path, undisturbed)


@pytest.mark.parametrize("at", [7, 12])
def test_rows_that_a_power_cut_takes_come_back_from_the_checkpoint(
    at: int, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (f"runs_dir={tmp_path}", "stages=[pretrain]", COARSE)
    synced: list[str] = []
    original = os.fsync

    def note(file: int) -> None:
        synced.append(Path(f"/proc/self/fd/{file}").readlink().name)
        original(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", note)
        crash_at(patch, at)
        with pytest.raises(Crash):
            run(*overrides, "checkpoint.every_steps=5")
    checkpoint = next(name for name in synced if "step=" in name)
    assert "metrics.jsonl" in synced[: synced.index(checkpoint)]
    (log,) = tmp_path.glob("pretrain/*/metrics.jsonl")
    log.write_text(log.read_text().splitlines(keepends=True)[-1])
    with pytest.warns(UserWarning, match="metrics.jsonl had lost"):
        run(*overrides)
    assert_same(tmp_path, undisturbed)


def test_a_crash_during_validation_changes_nothing(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(self: MetricsLogger, *args: object) -> None:
        raise Crash

    overrides = (
        f"runs_dir={tmp_path}",
        "stages=[pretrain]",
        COARSE,
        "checkpoint.every_steps=1",
    )
    with monkeypatch.context() as patch:
        patch.setattr(MetricsLogger, "on_validation_end", dying)
        with pytest.raises(Crash):
            run(*overrides)
    run(*overrides)
    assert_same(tmp_path, undisturbed)


def test_a_crash_after_the_last_step_trains_nothing_again(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(self: StageFolder, *args: object) -> None:
        raise Crash

    overrides = (f"runs_dir={tmp_path}", "stages=[pretrain]", COARSE)
    with monkeypatch.context() as patch:
        patch.setattr(StageFolder, "finish", dying)
        with pytest.raises(Crash):
            run(*overrides)
    (result,) = run(*overrides)
    assert_same(tmp_path, undisturbed)
    (whole,) = undisturbed.glob("pretrain/*/result.json")
    assert result["metrics"] == json.loads(whole.read_text())["metrics"]


def test_epochs_of_a_single_step_resume_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (
        "stages=[pretrain]",
        COARSE,
        "pretrain.batch_size=4000",
        "pretrain.epochs=5",
        "checkpoint.every_steps=1",
    )
    run(f"runs_dir={tmp_path / 'whole'}", *overrides)
    with monkeypatch.context() as patch:
        crash_at(patch, 3)
        with pytest.raises(Crash):
            run(f"runs_dir={tmp_path / 'crashed'}", *overrides)
    run(f"runs_dir={tmp_path / 'crashed'}", *overrides)
    assert_same(tmp_path / "crashed", tmp_path / "whole")


def test_accumulated_gradients_resume_at_the_step_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (
        "stages=[pretrain]",
        COARSE,
        "trainer.micro_batch=250",
        "checkpoint.every_steps=1",
        "pretrain.epochs=2",
    )
    run(f"runs_dir={tmp_path / 'whole'}", *overrides)
    with monkeypatch.context() as patch:
        crash_at(patch, 3)
        with pytest.raises(Crash):
            run(f"runs_dir={tmp_path / 'crashed'}", *overrides)
    run(f"runs_dir={tmp_path / 'crashed'}", *overrides)
    assert_same(tmp_path / "crashed", tmp_path / "whole")


@pytest.mark.parametrize(
    "workers", [(0, 0), (2, 2), (0, 2)], ids=["none", "two", "none then two"]
)
def test_images_from_disk_resume_exactly_with_any_workers(
    workers: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_folder(tmp_path / "images")
    overrides = (
        "data=image_folder",
        f"data.root={root}",
        "data.image_size=16",
        "data.patch_size=4",
        "data.in_memory=false",
        "stages=[pretrain]",
        "pretrain.batch_size=4",
        "augment=crop_random",
        "checkpoint.every_steps=1",
    )
    run(f"runs_dir={tmp_path / 'whole'}", "data.num_workers=0", *overrides)
    with monkeypatch.context() as patch:
        crash_at(patch, 6)
        with pytest.raises(Crash):
            run(
                f"runs_dir={tmp_path / 'crashed'}",
                f"data.num_workers={workers[0]}",
                *overrides,
            )
    run(
        f"runs_dir={tmp_path / 'crashed'}", f"data.num_workers={workers[1]}", *overrides
    )
    assert_same(tmp_path / "crashed", tmp_path / "whole")


def test_few_label_fine_tuning_resumes_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (
        "stages=[scratch]",
        "labels=100",
        "finetune.epochs=6",
        "checkpoint.every_steps=1",
    )
    run(f"runs_dir={tmp_path / 'whole'}", *overrides)
    with monkeypatch.context() as patch:
        crash_at(patch, 5)
        with pytest.raises(Crash):
            run(f"runs_dir={tmp_path / 'crashed'}", *overrides)
    run(f"runs_dir={tmp_path / 'crashed'}", *overrides)
    assert_same(tmp_path / "crashed", tmp_path / "whole", "scratch")


def test_a_small_dvae_resumes_exactly_and_so_do_its_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (
        "target=dvae",
        "stages=[pretrain]",
        COARSE,
        "pretrain.epochs=1",
        "checkpoint.every_steps=1",
        "tokenizer.epochs=2",
        "tokenizer.warmup_epochs=0",
        "tokenizer.codes=16",
        "tokenizer.width=8",
        "tokenizer.batch_size=1000",
    )
    run(f"runs_dir={tmp_path / 'whole'}", *overrides)
    with monkeypatch.context() as patch:
        crash_at(patch, 5)
        with pytest.raises(Crash):
            run(f"runs_dir={tmp_path / 'crashed'}", *overrides)
    assert not (tmp_path / "crashed" / "pretrain").exists(), (
        "it crashed in the stage before"
    )
    run(f"runs_dir={tmp_path / 'crashed'}", *overrides)
    for stage in ("tokenizer", "pretrain"):
        assert_same(tmp_path / "crashed", tmp_path / "whole", stage)


def test_a_damaged_newest_checkpoint_costs_only_the_steps_since_the_one_before(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (
        f"runs_dir={tmp_path}",
        "stages=[pretrain]",
        COARSE,
        "checkpoint.every_steps=1",
    )
    with monkeypatch.context() as patch:
        crash_at(patch, 7)
        with pytest.raises(Crash):
            run(*overrides)
    newest = max(tmp_path.glob("pretrain/*/checkpoints/step=*.ckpt"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    with pytest.warns(UserWarning, match=r"step=00000007.ckpt is damaged"):
        run(*overrides)
    assert_same(tmp_path, undisturbed)


@pytest.mark.process
@pytest.mark.parametrize(
    ("kind", "workers"),
    [(signal.SIGKILL, 0), (signal.SIGKILL, 2), (signal.SIGTERM, 2)],
    ids=lambda v: getattr(v, "name", v),
)
def test_a_process_killed_twice_ends_as_if_it_never_was(
    kind: signal.Signals, workers: int, tmp_path: Path
) -> None:
    """SIGKILL ends it in the middle; SIGTERM makes it save and exit with 75."""
    overrides = [
        "stages=[pretrain]",
        "pretrain.epochs=16",
        "checkpoint.every_steps=2",
        "watch.times=2",
    ]
    root = image_folder(tmp_path / "images")
    overrides += [
        "data=image_folder",
        f"data.root={root}",
        "data.image_size=16",
        "data.patch_size=4",
        f"data.in_memory={str(not workers).lower()}",
        f"data.num_workers={workers}",
        "augment=crop_random",
        "pretrain.batch_size=4",
    ]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(f"runs_dir={whole}", *overrides)
    metrics_log = (
        StageFolder(killed, plan_for(*overrides).stages[0]).path / "metrics.jsonl"
    )
    for lines in (2, 8):  # rows logged: at several places between checkpoints
        process = Started(
            command(f"runs_dir={killed}", *overrides), tmp_path, environment()
        )
        wait_for(lambda: len(read_rows(metrics_log)) > lines, process)  # noqa: B023
        if kind == signal.SIGTERM:
            os.killpg(process.pid, kind)  # the loader's workers get it too
        else:
            process.send_signal(kind)
        assert process.wait(timeout=60) == (
            PREEMPTED if kind == signal.SIGTERM else -signal.SIGKILL
        )
    assert not list(killed.glob("pretrain/*/result.json"))
    again = call(f"runs_dir={killed}", *overrides)
    assert again.returncode == 0
    assert "continuing at step" in again.stdout
    assert_same(killed, whole)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ledger with a pretraining, its kNN and its linear probe."""
    runs = tmp_path_factory.mktemp("measured")
    run(f"runs_dir={runs}", *MEASURED)
    return runs


def without(measured: Path, kind: str, runs: Path) -> dict:
    """Copy the ledger but for the stages of that kind; return their result."""
    shutil.copytree(measured, runs, dirs_exist_ok=True)
    (path,) = (runs / kind).glob("*/result.json")
    result = json.loads(path.read_text())
    shutil.rmtree(runs / kind)
    return result


def test_a_linear_probe_that_is_asked_to_stop_goes_on_to_the_same_result(
    measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = without(measured, "linear_probe", tmp_path)
    original = MetricsLogger.on_train_batch_end
    steps: list[int] = []

    def stop_at_5(self: MetricsLogger, trainer: object, *args: object) -> None:
        original(self, trainer, *args)  # type: ignore[arg-type]
        steps.append(trainer.global_step)  # type: ignore[attr-defined]
        if steps == [1, 2, 3, 4, 5]:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(MetricsLogger, "on_train_batch_end", stop_at_5)
    with pytest.raises(SystemExit) as leaving:
        run(f"runs_dir={tmp_path}", *MEASURED)
    assert leaving.value.code == PREEMPTED
    assert not list(tmp_path.glob("linear_probe/*/result.json"))
    assert final_state(tmp_path, "linear_probe")["global_step"] == 5
    again = run(f"runs_dir={tmp_path}", *MEASURED)[-1]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8], "no step is made twice, none is left out"
    assert again["metrics"] == result["metrics"]
    ours, theirs = (
        final_state(runs, "linear_probe")["state_dict"] for runs in (tmp_path, measured)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("when", ["features", "votes"])
def test_a_knn_that_is_asked_to_stop_is_made_again_with_the_same_result(
    when: str, measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = without(measured, "knn", tmp_path)
    name = {"features": "features_of_splits", "votes": "knn_predictions"}[when]
    original = getattr(stages, name)

    def stopped(*args: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(stages, name, stopped)
        with pytest.raises(SystemExit) as leaving:
            run(f"runs_dir={tmp_path}", *MEASURED)
    assert leaving.value.code == PREEMPTED
    assert not list(tmp_path.glob("knn/*/result.json"))
    assert not list(tmp_path.glob("knn/*/error.txt"))
    again = run(f"runs_dir={tmp_path}", *MEASURED)[1]
    assert again["metrics"] == result["metrics"]
    assert again["fingerprint"] == result["fingerprint"]


def wait_for(
    condition: Callable[[], bool], process: Started, seconds: float = 120
) -> None:
    start = time.monotonic()
    while not condition():
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() - start < seconds
        time.sleep(0.02)


def test_the_seconds_of_a_resumed_stage_are_those_of_all_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (
        f"runs_dir={tmp_path}",
        "stages=[pretrain]",
        COARSE,
        "checkpoint.every_steps=1",
    )
    with monkeypatch.context() as patch:
        crash_at(patch, 6)
        with pytest.raises(Crash):
            run(*overrides)
    path = checkpoints.newest(next(tmp_path.glob("pretrain/*/checkpoints")))
    assert path is not None
    content = checkpoints.load(path)
    (state,) = [state for state in content["callbacks"].values() if "seconds" in state]
    assert 0 < state["seconds"] < 200
    state["seconds"] += 1000.0
    checkpoints.save(content, path.parent, 6)
    (result,) = run(*overrides)
    assert 1000 < result["seconds"] < 1200


def test_a_time_limit_saves_and_exits_with_75(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeouts: list[Callable[[], None]] = []

    class Clock(threading.Timer):
        def __init__(
            self,
            seconds: float,
            function: Callable[..., None],
            args: tuple[object, ...],
        ) -> None:
            assert seconds == 120
            super().__init__(seconds, function, args)
            timeouts.append(lambda: function(*args))

    original = MetricsLogger.on_train_batch_end

    def at_step_5(self: MetricsLogger, trainer: object, *args: object) -> None:
        original(self, trainer, *args)  # type: ignore[arg-type]
        if trainer.global_step == 5:  # type: ignore[attr-defined]
            timeouts[0]()

    with monkeypatch.context() as patch:
        patch.setattr(threading, "Timer", Clock)
        patch.setattr(MetricsLogger, "on_train_batch_end", at_step_5)
        with pytest.raises(SystemExit) as leaving:
            run(
                f"runs_dir={tmp_path}",
                "stages=[pretrain]",
                COARSE,
                "trainer.max_minutes=2",
            )
    assert leaving.value.code == PREEMPTED
    assert final_state(tmp_path)["global_step"] == 5
    run(f"runs_dir={tmp_path}", "stages=[pretrain]", COARSE)
    assert_same(tmp_path, undisturbed)


@pytest.mark.parametrize("when", ["before the fit", "between two stages"])
def test_a_signal_whose_exception_is_lost_is_not_lost(
    when: str, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python prints and drops what a handler raises in a destructor."""

    class Dropped:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    overrides = (f"runs_dir={tmp_path}", "stages=[pretrain,knn]", COARSE)
    owner, name = (
        (StageFolder, "write_config")
        if when == "before the fit"
        else (StageFolder, "finish")
    )
    original = getattr(owner, name)

    def dropping(*args: object) -> object:
        Dropped()
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dropping)
        patch.setattr("sys.unraisablehook", lambda raised: None)
        with pytest.raises(SystemExit) as leaving:
            run(*overrides)
    assert leaving.value.code == PREEMPTED
    assert not list(tmp_path.glob("knn/*/result.json"))
    run(*overrides)
    assert_same(tmp_path, undisturbed)
