"""Results that other code has made are named, made anew or adopted; comments are free."""

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from small_runs import COARSE, call, plan_for, run
from unmask.config import recipes
from unmask.config.foreign import source_digest
from unmask.stages.drift import BEGUN_FILE, NEEDED_BY, PROJECT, git_state
from unmask.stages.stage_order import STAGES

SMALL = (COARSE, "pretrain.epochs=1", "model.width=8", "decoder.width=8")
MASKING = "unmask/masking.py"
DASHBOARD_MODULE = "unmask.dashboards.card"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ledger with a pretraining and two kNNs."""
    runs = tmp_path_factory.mktemp("finished")
    importlib.import_module(DASHBOARD_MODULE)
    run(f"runs_dir={runs}", "stages=[pretrain,knn]", "controls=[pixels]", *SMALL)
    return runs


@pytest.fixture
def runs(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "runs")


@pytest.fixture
def train(runs: Path) -> Callable[..., str]:
    """Return a function that runs the command and returns what it says."""

    def call_train(*overrides: str, stages: str = "pretrain,knn") -> str:
        typed = (f"runs_dir={runs}", f"stages=[{stages}]", "controls=[pixels]")
        done = call(*typed, *SMALL, *overrides)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call_train


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def read_result(runs: Path, kind: str, start: str = "") -> dict[str, Any]:
    results = [json.loads(p.read_text()) for p in runs.glob(f"{kind}/*/result.json")]
    (result,) = [r for r in results if r["start"] == start or not start]
    return result


def pretend_another_masking(runs: Path) -> None:
    """Let results look as they would if masking.py had been another file then."""
    for path in runs.glob("*/*/result.json"):
        edit(
            path,
            lambda r: r["sources"].update(
                {name: "0 0" for name in r["sources"] if name == MASKING}
            ),
        )


def test_a_digest_of_code_ignores_comments_docstrings_and_layout() -> None:
    code = b'def f(x):\n    return [x, "a"]\n'
    same = (
        b"'''Doc.'''\ndef f(x):  # why\n    '''Say.'''\n\n    return [\n        x, 'a']"
    )
    assert source_digest(code) == source_digest(same)
    assert source_digest(code) != source_digest(code.replace(b"x, ", b"x + 0, "))


def test_a_result_records_the_code_that_it_depends_on(finished: Path) -> None:
    knn, pixels = (
        read_result(finished, "knn", start) for start in ("pretrained", "pixels")
    )
    assert {MASKING, "unmask/tasks/knn.py", "unmask/encoder.py"} <= {*knn["sources"]}
    assert MASKING not in pixels["sources"]
    assert "unmask/tasks/knn.py" not in read_result(finished, "pretrain")["sources"]
    # what shows a run, or watches it, changes no result
    assert DASHBOARD_MODULE in sys.modules
    for word in ("reports", "dashboards", "tasks/ridge", "utilisation"):
        assert not any(word in name for name in knn["sources"])
    assert knn.get("git") == git_state()


def test_each_module_in_the_table_of_needs_is_there() -> None:
    """A module that moved would be needed by all stages: all would be told to drift."""
    for name in NEEDED_BY:
        path = PROJECT / "unmask" / name.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def test_nothing_is_said_of_the_same_code_and_of_results_without_digests(
    runs: Path, train: Callable[..., str]
) -> None:
    assert "drift" not in train()
    for path in runs.glob("*/*/result.json"):
        edit(path, lambda result: result.pop("sources"))
    assert "drift" not in train()


def test_a_changed_file_is_named_once_before_the_old_result(
    runs: Path, train: Callable[..., str]
) -> None:
    pretend_another_masking(runs)
    said = train()
    (line,) = [line for line in said.splitlines() if "drift" in line]
    assert MASKING in line
    assert "pretrain, kNN was" in line
    assert "rerun=true" in line
    assert "adopt=true" in line
    assert said.index(line) < said.index("Results")


def test_adopt_keeps_the_result_and_notes_it(
    runs: Path, train: Callable[..., str]
) -> None:
    before = read_result(runs, "pretrain")["metrics"]
    pretend_another_masking(runs)
    assert f"adopted: pretrain, kNN, although {MASKING}" in train("adopt=true")
    assert "drift" not in train()
    result = read_result(runs, "pretrain")
    assert result["metrics"] == before
    assert result["adopted"][0]["changed"] == [MASKING]


def test_rerun_makes_anew_what_has_changed_and_only_once(
    runs: Path, train: Callable[..., str]
) -> None:
    pretend_another_masking(runs)
    edit(
        next(runs.glob("pretrain/*/result.json")),
        lambda result: result["metrics"].update({"val/loss": 9.0}),
    )
    # kNN's only code that has changed is its pretraining's
    said = train("rerun=true")
    assert "kNN, raw pixels: from the ledger" in said
    assert "kNN: from the ledger" not in said
    assert read_result(runs, "pretrain")["metrics"]["val/loss"] != 9.0
    (earlier,) = runs.glob("pretrain/*/earlier/*/result.json")
    assert json.loads(earlier.read_text())["metrics"]["val/loss"] == 9.0
    finished = read_result(runs, "pretrain")
    assert "drift" not in train("rerun=true")
    assert read_result(runs, "pretrain") == finished


def test_a_stage_that_other_code_has_begun_is_named_and_may_begin_anew(
    runs: Path, train: Callable[..., str]
) -> None:
    result_path = next(runs.glob("pretrain/*/result.json"))
    begun = {"sources": {MASKING: "0 0"}, "git": None}
    (result_path.parent / BEGUN_FILE).write_text(json.dumps(begun))
    result_path.unlink()
    assert f"drift: {MASKING} changed since pretrain was begun" in train()
    # of two codes, and says so from now on
    assert f"drift: {MASKING} changed since pretrain" in train()
    assert "drift" not in train("rerun=true").replace("made anew", "")
    assert "drift" not in train()


def test_a_measurement_is_returned_though_its_pretraining_was_deleted(
    runs: Path, train: Callable[..., str]
) -> None:
    shutil.rmtree(runs / "pretrain")
    before = read_result(runs, "knn", "pretrained")
    said = train(stages="knn")
    assert "kNN" in said
    assert not (runs / "pretrain").exists()
    assert read_result(runs, "knn", "pretrained") == before


def test_a_version_of_one_kind_changes_the_fingerprints_of_that_kind_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stages = "stages=[pretrain,knn,linear_probe,finetune,robustness]"
    before = [spec.fingerprint for spec in plan_for(stages).stages]
    raised = replace(STAGES["robustness"], result_version=1)
    monkeypatch.setitem(recipes.STAGES, "robustness", raised)
    plan = plan_for(stages)
    changed = {
        spec.kind
        for spec, fingerprint in zip(plan.stages, before, strict=True)
        if spec.fingerprint != fingerprint
    }
    assert changed == {"robustness"}
