"""Faults between processes: sweeps that change or meet, a rank that fails, another environment."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from forked import Started
from small_runs import (
    ROOT,
    TINY,
    call,
    children,
    command,
    environment,
    image_folder,
    plan_for,
    run,
)
from test_resume import assert_same
from unmask.config.checks import ConfigError
from unmask.stages.checked_cells import (
    CHECKED_CELLS,
    publish_checked_cells,
    refuse_unchecked_cell,
)
from unmask.storage.metrics_log import read_rows

pytestmark = pytest.mark.process
QUICK = ("stages=[pretrain]", "pretrain.epochs=1")


def test_a_cell_that_its_sweep_did_not_check_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(CHECKED_CELLS, "")
    refuse_unchecked_cell(plan_for())  # no sweep has started it
    publish_checked_cells([plan_for("seed=1"), plan_for("seed=2")])
    refuse_unchecked_cell(plan_for("seed=2", "data.num_workers=3"))
    with pytest.raises(
        ConfigError,
        match=r"changed under the sweep: this cell is now pretrain/.*type the sweep's",
    ):
        refuse_unchecked_cell(plan_for("seed=3"))


def test_a_config_that_is_edited_under_a_sweep_stops_the_cells_that_are_not_begun(
    tmp_path: Path,
) -> None:
    (recipe := tmp_path / "conf" / "pretrain" / "mine.yaml").parent.mkdir(parents=True)
    original = (ROOT / "conf" / "pretrain" / "small.yaml").read_text()
    recipe.write_text(original)
    arguments = (
        "pretrain=mine",
        *TINY,
        *QUICK,
        f"runs_dir={tmp_path / 'runs'}",
        "seed=1,2",
    )
    typed = command("-m", f"--config-dir={tmp_path / 'conf'}", *arguments, tiny=False)
    sweep = Started(typed, tmp_path, environment())
    while not list(tmp_path.glob("runs/pretrain/*/owner.json")):
        assert sweep.poll() is None, sweep.said
        time.sleep(0.02)
    recipe.write_text(original.replace("weight_decay: 0.05", "weight_decay: 0.06"))
    assert sweep.wait(timeout=120) == 1
    assert (
        sweep.said.count(
            "the project or its images changed under the sweep: this cell is now"
            " pretrain/"
        )
        == 1
    )
    assert len(list(tmp_path.glob("runs/pretrain/*/result.json"))) == 1, (
        "the one that had begun"
    )


def test_two_sweeps_on_one_ledger_both_end_well_and_train_each_stage_once(
    tmp_path: Path,
) -> None:
    arguments = (
        "-m",
        f"runs_dir={tmp_path}",
        "stages=[pretrain,knn]",
        "pretrain.epochs=4",
        "seed=1,2",
    )
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda _: call(*arguments, process="forked"), range(2)))
    assert [done.returncode for done in both] == [0, 0], both[0].stderr + both[1].stderr
    logs = [read_rows(path) for path in tmp_path.glob("pretrain/*/metrics.jsonl")]
    steps = [[row["step"] for row in rows if "train/loss" in row] for rows in logs]
    assert steps == [[4, 8, 12, 16]] * 2
    assert len(list(tmp_path.glob("knn/*/result.json"))) == 2


def test_an_error_of_one_process_of_two_is_told_in_its_words_and_ends_the_other(
    tmp_path: Path,
) -> None:
    """Only one of them gets the image that cannot be read."""
    images = image_folder(tmp_path / "images")
    (images / "cat" / "003.png").write_text("not an image")
    typed = command(
        "data=image_folder",
        f"data.root={images}",
        "data.image_size=16",
        "data.patch_size=4",
        "data.in_memory=false",
        "data.num_workers=0",
        "data.bad_limit=0",
        "pretrain.batch_size=4",
        *QUICK,
        f"runs_dir={tmp_path / 'runs'}",
        "trainer.devices=2",
    )
    failing = Started(typed, tmp_path, environment())
    assert failing.wait(timeout=120) == 1
    assert "003.png cannot be read as an image" in failing.said
    assert "Traceback" not in failing.said
    assert not Path(f"/proc/{failing.pid}").exists() or not children(failing.pid)


def test_the_environment_changes_no_bit(tmp_path: Path) -> None:
    """Hash seed, time zone, language, terminal and working directory.

    In Turkish the lower case of "I" is another letter.
    """
    overrides = ("stages=[pretrain,knn]", "pretrain.epochs=2")
    usual = run(f"runs_dir={tmp_path / 'usual'}", *overrides)
    odd = {
        "PYTHONHASHSEED": "123",
        "TZ": "Asia/Kathmandu",
        "LC_ALL": "tr_TR.UTF-8",
        "LANG": "tr_TR.UTF-8",
        "TERM": "dumb",
    }
    done = call(
        f"runs_dir={tmp_path / 'odd'}", *overrides, process="new", env=odd, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "odd", tmp_path / "usual")
    names = [
        sorted(p.parent.name for p in (tmp_path / runs).glob("*/*/result.json"))
        for runs in ("odd", "usual")
    ]
    assert names[0] == names[1]
    (knn,) = (tmp_path / "odd").glob("knn/*/result.json")
    assert f'"val/accuracy": {usual[1]["metrics"]["val/accuracy"]}' in knn.read_text()
