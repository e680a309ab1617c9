"""src/send.py: names that W&B refuses, and folders without results, are told before a connection."""

from pathlib import Path

import pytest
import yaml

from planted_ledger import plant, plant_curve
from small_runs import call

# a server that no test may reach
NOWHERE = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a finished stage with rows to send."""
    (stage,) = plant(tmp_path / "runs", "stages=[pretrain]", tiny=True)
    plant_curve(stage.path, {10: 0.6, 20: 0.5})
    return stage.path


def send(*typed: object) -> tuple[int, str]:
    done = call(*map(str, typed), script="send.py", tiny=False, env=NOWHERE)
    return done.returncode, done.stderr


@pytest.mark.parametrize("key", ["project", "entity"])
@pytest.mark.parametrize(
    ("name", "remedy"),
    [("a/b", "such as a-b"), ("x" * 129, f"such as {'x' * 128}"), ("100%", "100")],
)
def test_a_name_that_is_refused_comes_with_one_that_is_not(
    key: str, name: str, remedy: str, folder: Path
) -> None:
    code, said = send(folder, f"{key}={name}")
    assert code == 2
    (line,) = said.splitlines()
    assert key in line
    assert repr(name) in line
    assert remedy in line


def test_a_project_that_a_stage_recorded_is_checked_and_may_be_replaced(
    folder: Path,
) -> None:
    path = folder / "config.yaml"
    content = yaml.safe_load(path.read_text())
    content["config"]["logger"]["wandb"] = {"project": "digits/mae"}
    path.write_text(yaml.safe_dump(content))
    code, said = send(folder)
    assert code == 2
    (line,) = said.splitlines()
    assert line.startswith(f"{folder}: logger.wandb.project = 'digits/mae'")
    assert "digits-mae; add project=..." in line


def test_what_is_no_finished_stage_is_named(folder: Path) -> None:
    (folder / "result.json").unlink()
    code, said = send(folder)
    assert code == 2
    assert said.startswith(f"{folder}: no finished stage")
    code, said = send("project=digits")
    assert code == 2
    assert "folders" in said
