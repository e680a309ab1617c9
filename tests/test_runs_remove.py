"""Space is freed only when it is asked for twice, and results that stand are returned."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from planted_ledger import plant
from small_runs import COARSE
from small_runs import run as train
from unmask.commands.runs import run
from unmask.config.checks import ConfigError
from unmask.stages.fingerprint import weights_identity
from unmask.stages.ledger import LedgerError
from unmask.stages.records import RunRecord, read_ledger
from unmask.storage import checkpoints

DIALS = (COARSE, "stages=[pretrain,knn]")


@pytest.fixture
def trained(tmp_path: Path) -> RunRecord:
    train(f"runs_dir={tmp_path}", *DIALS)
    return pretraining(tmp_path)


def pretraining(runs: Path) -> RunRecord:
    (record,) = [r for r in read_ledger(runs).records if r.kind == "pretrain"]
    return record


def command(runs: Path, *typed: str) -> None:
    run([*typed, f"runs_dir={runs}"])


def test_nothing_is_removed_without_yes(tmp_path: Path, capsys: Any) -> None:
    pretrain, knn, *_ = plant(tmp_path, "stages=[knn]", "controls=[]", seconds=100.0)
    command(tmp_path, "rm", pretrain.spec.fingerprint[:5])
    printed = capsys.readouterr().out
    assert (
        f"1 stage from it (knn/{knn.spec.fingerprint}); 1 result of them st" in printed
    )
    assert "1 stage, " in printed
    assert "; 100 s to make again" in printed
    assert printed.endswith("nothing was removed: yes=true does it\n")
    assert pretrain.result()
    command(tmp_path, "rm", pretrain.spec.fingerprint[:5], "yes=true")
    assert not pretrain.path.exists()
    assert knn.result()


def test_prune_takes_what_is_not_finished(tmp_path: Path, capsys: Any) -> None:
    plant(tmp_path, "stages=[pretrain]")
    (left,) = plant(tmp_path, "stages=[pretrain]", "seed=1", metrics={})
    (busy,) = plant(tmp_path, "stages=[pretrain]", "seed=2", metrics={})
    with FileLock(busy.path / "lock"):
        command(tmp_path, "prune", "yes=true")
    assert not left.path.exists()
    assert {r.seed for r in read_ledger(tmp_path).records} == {0, 2}
    command(tmp_path, "prune", "seed=0", "yes=true")
    assert {r.seed for r in read_ledger(tmp_path).records} == {2}
    command(tmp_path, "prune", "seed=1")
    assert capsys.readouterr().out.endswith("there is nothing to remove\n")


def test_a_stage_that_runs_is_not_removed(tmp_path: Path) -> None:
    pretrain, knn = plant(
        tmp_path, "stages=[knn]", "controls=[]", metrics={"pretrain": {"val/loss": 1.0}}
    )
    with (
        FileLock(knn.path / "lock"),
        pytest.raises(LedgerError, match=r"works on knn/.*status until=done"),
    ):
        command(tmp_path, "rm", pretrain.spec.fingerprint, "yes=true")
    assert pretrain.result()


def test_keep_is_for_finished_stages(tmp_path: Path) -> None:
    (folder,) = plant(tmp_path, "stages=[pretrain]", metrics={})
    with pytest.raises(
        LedgerError, match="is interrupted: keep=weights is for finished"
    ):
        command(tmp_path, "rm", folder.spec.fingerprint, "keep=weights")


def test_keep_weights_drops_the_moments_alone(trained: RunRecord, capsys: Any) -> None:
    runs = trained.folder.parents[1]
    path = checkpoints.newest(trained.folder / "checkpoints")
    assert path
    before, identity = checkpoints.load(path), weights_identity(str(trained.folder))
    results = train(f"runs_dir={runs}", *DIALS)
    size = trained.bytes
    command(runs, "rm", trained.fingerprint, "keep=weights", "yes=true")
    assert "optimiser states of 1 stage removed" in capsys.readouterr().out
    after = checkpoints.load(path)
    assert "optimizer_states" in before
    assert "optimizer_states" not in after
    for name, value in before["state_dict"].items():
        assert torch.equal(value, after["state_dict"][name])
    # two moments of three parts
    assert pretraining(runs).bytes < 0.6 * size
    # results that start from these weights keep their fingerprints
    assert weights_identity(str(trained.folder)) == identity
    assert weights_identity(str(path)) == identity
    assert checkpoints.newest(path.parent) == path
    assert checkpoints.newest(path.parent, to_go_on=True) is None
    assert train(f"runs_dir={runs}", *DIALS) == results
    # what needs the weights has them
    (knn,) = train(f"runs_dir={runs}", COARSE, "stages=[knn]", "knn.k=3")[1:]
    assert knn["parent"] == trained.fingerprint
    command(runs, "prune", "keep=weights", "stage=pretrain")
    assert "nothing to remove" in capsys.readouterr().out


def test_keep_results_drops_the_weights_and_says_how_to_make_them(
    trained: RunRecord, capsys: Any
) -> None:
    runs = trained.folder.parents[1]
    results = train(f"runs_dir={runs}", *DIALS)
    command(runs, "prune", "keep=results", "yes=true")
    assert not list(runs.glob("*/*/checkpoints/*.ckpt"))
    assert train(f"runs_dir={runs}", *DIALS) == results
    remedy = "weights were removed to free space .* make them again .*rerun=true"
    with pytest.raises(LedgerError, match=remedy):
        train(f"runs_dir={runs}", COARSE, "stages=[knn]", "knn.k=3")
    with pytest.raises(ConfigError, match=remedy):
        train(f"runs_dir={runs}", COARSE, "stages=[knn]", f"init_from={trained.folder}")
    (again, _) = train(f"runs_dir={runs}", *DIALS, "rerun=true")
    assert again["metrics"] == results[0]["metrics"]
    assert checkpoints.newest(trained.folder / "checkpoints")
    (knn,) = train(f"runs_dir={runs}", COARSE, "stages=[knn]", "knn.k=3")[1:]
    assert knn["parent"] == trained.fingerprint


def test_a_kill_while_moments_are_dropped_leaves_an_intact_checkpoint(
    trained: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trained.folder / "checkpoints"
    path = checkpoints.newest(folder)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    # after the index is written, before the file is replaced
    monkeypatch.setattr("unmask.storage.atomic._rename", killed)
    index = json.loads((folder / "last.json").read_text())
    with pytest.raises(KeyboardInterrupt):
        checkpoints.keep_only_weights(folder)
    monkeypatch.undo()
    (folder / "last.json").write_text(
        json.dumps([{**index[0], "sha256": "new", "whole_sha256": index[0]["sha256"]}])
    )
    assert checkpoints.newest(folder) == path
    assert checkpoints.newest(folder, to_go_on=True) == path
