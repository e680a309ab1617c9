"""The first digits of a fingerprint are enough wherever a stage's folder is asked for."""

from pathlib import Path

import pytest

from small_runs import call, raw_config
from unmask.commands.cli import quote_value
from unmask.config.checks import ConfigError, check
from unmask.config.stage_paths import resolve_stage

STAGES = ("pretrain/a784202011ee", "pretrain/a7ff00000000", "knn/847000000000")


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in STAGES:
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs" / "pages").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("a78", "runs/pretrain/a784202011ee"),
        ("847", "runs/knn/847000000000"),
        ("knn/84", "runs/knn/847000000000"),
        ("runs/pretrain/a78", "runs/pretrain/a784202011ee"),
        ("runs/a7f", "runs/pretrain/a7ff00000000"),
        # what is no prefix is left to whoever reads the file
        ("mae_vit_b.pth", "mae_vit_b.pth"),
        ("elsewhere/abc", "elsewhere/abc"),
    ],
)
def test_a_unique_prefix_is_the_stages_folder(
    typed: str, expected: str, ledger: Path
) -> None:
    assert resolve_stage(typed) == expected


def test_a_file_of_that_name_comes_first(ledger: Path) -> None:
    (ledger / "a78").write_text("")
    assert resolve_stage("a78") == "a78"


def test_an_ambiguous_prefix_lists_its_stages(ledger: Path) -> None:
    with pytest.raises(ValueError, match="a7: 2 stages begin so") as error:
        resolve_stage("a7")
    assert "pretrain/a784202011ee, pretrain/a7ff00000000" in str(error.value)


def test_an_unknown_prefix_lists_what_there_is(ledger: Path) -> None:
    with pytest.raises(ValueError, match="fff: no stage in runs begins so") as error:
        resolve_stage("fff")
    assert "knn/847000000000" in str(error.value)


@pytest.mark.parametrize(
    ("script", "typed"),
    [
        ("send.py", ("a7",)),
        ("replay.py", ("a7",)),
        ("predict.py", ("checkpoint=a7", "images=x")),
        ("reconstruct.py", ("checkpoint=a7",)),
        ("convert.py", ("from=a7", "to=x.safetensors")),
        ("train.py", ("init_from=a7",)),
        ("verify.py", ("init_from=a7",)),
        ("plan.py", ("init_from=a7",)),
    ],
)
def test_every_command_refuses_an_ambiguous_prefix_in_one_line(
    script: str, typed: tuple[str, ...], ledger: Path
) -> None:
    done = call(*typed, script=script, tiny=False, cwd=ledger)
    assert done.returncode == 2
    # plan.py names the cell in a line before
    line = done.stderr.splitlines()[-1]
    assert "a7: 2 stages begin so: pretrain/a784202011ee, pretrain/a7ff" in line


def test_init_from_is_looked_for_in_the_runs_own_ledger(ledger: Path) -> None:
    (ledger / "runs").rename(ledger / "other")
    config = check(raw_config("init_from=a78", "runs_dir=other", "stages=[knn]"))
    assert config.init_from == "other/pretrain/a784202011ee"
    with pytest.raises(ConfigError, match="init_from = a78: there is no stage in runs"):
        check(raw_config("init_from=a78", "stages=[knn]"))


@pytest.mark.parametrize(
    ("typed", "quoted"),
    [
        ("init_from=847", "init_from='847'"),
        ("init_from=7e5", "init_from='7e5'"),
        ("init_from=a78", "init_from=a78"),
    ],
)
def test_digits_of_a_fingerprint_are_no_number(typed: str, quoted: str) -> None:
    assert quote_value(typed) == quoted
