"""The files of examples/ work together, in one run and on its page."""

import json
from pathlib import Path

import pytest

from small_runs import COARSE, ROOT, call, plan_for

SHORT = ("pretrain.epochs=1", "pretrain.batch_size=100", "controls=[pixels]", COARSE)
STRIPES = (
    *("data=image_folder", "data.source=examples.stripes.STRIPES"),
    *("data.image_size=28", "data.channels=1"),
)
PARTS = (
    "masking._target_=examples.checkerboard.Checkerboard",
    "masking.start=1",
    "target._target_=examples.gradient.Gradient",
    "augment._target_=examples.noise.Noise",
    "augment.strength=0.1",
    "task._target_=examples.rotation.Rotation",
)


def test_a_run_of_all_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    typed = (*SHORT, *STRIPES, *PARTS, "stages=[pretrain,task]", f"runs_dir={tmp_path}")
    trained = call(*typed)
    assert trained.returncode == 0, trained.stderr
    assert "% of turns recognised" in trained.stdout
    assert "Rotation, raw pixels" in trained.stdout
    results = [json.loads(p.read_text()) for p in tmp_path.glob("task/*/result.json")]
    told = {result["start"]: result["metrics"]["val/turns"] for result in results}
    # stripes that are turned by half look the same: chance is not far
    assert all(20 < value < 80 for value in told.values())
    assert results[0]["measure"]["key"] == "val/turns"
    page = next((tmp_path / "pages").glob("*.html")).read_text()
    for text in (
        "Gradient: Predict the differences of neighbouring pixels",
        "examples.rotation.Rotation",
        "masking.start=1",
        "augment.strength=0.1",
        "50% of the patches hidden",
    ):
        assert text in page, text
    made = {path: path.read_bytes() for path in tmp_path.glob("*/*/result.json")}
    assert call(*typed).returncode == 0
    assert made == {path: path.read_bytes() for path in made}


def test_a_task_follows_its_code_its_keys_and_the_encoder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    stages = ("stages=[pretrain,task]", "task._target_=examples.rotation.Rotation")

    def fingerprint(*more: str) -> str:
        return plan_for(*stages, *more).stages[-1].fingerprint

    others = ("task.penalty=1", "seed=1", "task.pool=cls", "task.labels=100")
    assert len({fingerprint(), *map(fingerprint, others)}) == 5
    assert fingerprint("robustness=imagenet_c") == fingerprint()
    assert plan_for(*stages).stages[-1].title == "task Rotation"


def test_examples_are_short() -> None:
    for path in (ROOT / "examples").glob("*.py"):
        assert len(path.read_text().splitlines()) < 40, path
