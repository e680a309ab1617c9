"""Experiments and scales in a folder of the user's get all that the paper's tables get."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from small_runs import ROOT, call
from unmask.config import experiments
from unmask.config.checks import ConfigError
from unmask.config.conf_files import use_folders
from unmask.config.keys import known_keys
from unmask.config.overrides import check_overrides, config_groups

LAB = ROOT / "examples" / "lab"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Path]:
    """Return a copy of examples/lab without results, not looked into yet."""
    without = shutil.ignore_patterns("experiments")
    yield shutil.copytree(LAB, tmp_path / "lab", ignore=without)
    use_folders([])


def type_overrides(*arguments: str) -> None:
    """Check what is typed, as src/train.py does."""
    check_overrides(arguments, [*known_keys(), *config_groups()])


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_a_question_and_a_scale_are_read_beside_those_of_the_project(lab: Path) -> None:
    type_overrides(f"--config-dir={lab}", "experiment=patch_size", "scale=minute")
    paper = experiments.read_paper("patch_size")
    assert (paper.is_own, paper.default, paper.title) == (True, "4", "Patch size")
    assert [row.values for row in paper.rows] == [{"ft": None, "lin": None}] * 2
    assert paper.claims[1].higher == ["4", "8"], "numbers need no quotes"
    assert experiments.experiment_slugs()[-1] == "patch_size", "after the paper's"
    assert "patch_size" in experiments.expand_experiments("all")
    assert "patch_size" not in experiments.expand_experiments("ablations")
    scale = experiments.read_scale("minute")
    assert (scale.looks, scale.seeds) == ([2, 4], [0, 1])
    assert "linear_probe" in scale.caveats, "of the scale that it builds on"
    cells = list(experiments.experiment_cells("patch_size", scale))
    assert [cell.overrides for cell in cells] == [
        ("scale=minute", "seed=0"),
        ("scale=minute", "seed=1"),
        ("scale=minute", "data.patch_size=8", "seed=0"),
        ("scale=minute", "data.patch_size=8", "seed=1"),
    ]
    # the next command names no folder
    with pytest.raises(ConfigError, match="there is no such experiment"):
        type_overrides("experiment=patch_size")
    with pytest.raises(ConfigError, match="there is no such scale"):
        type_overrides("scale=minute")


@pytest.mark.parametrize(
    ("file", "before", "after", "message"),
    [
        ("experiment", "# @package _global_\n", "", "write # @package _global_ as"),
        ("experiment", "table:", "tables:", "there is no `table:` in it"),
        ("experiment", "slug: patch_size", "slug: size", "it must be the file's name"),
        ("experiment", "column: ft", "column: tf", "unknown column tf; known rows"),
        ("experiment", "higher: [4, 8]", "higher: [4, 9]", "unknown row 9"),
        ("experiment", "higher: [4, 8]", "best: 4, by: 1", "a margin of higher alone"),
        ("experiment", "  question:", "  questions:", "questions = "),
        ("experiment", "default: 4", "default: 2", "unknown row 2"),
        ("experiment", "default: 4", "rows: [4]", "rows = "),
        ("experiment", "    8: [", "    eight: [", "unknown row 8"),
        ("experiment", "    4: []", "    on: []", "put the row's name in quotes"),
        ("experiment", "slug:", "slug: [", "cannot be read: "),
        ("scale", "# @package _global_\n", "", "write # @package _global_ as"),
        ("scale", "- embedded", "- minute", "its `defaults` lead back to itself"),
        ("scale", "- embedded", "- embeded", "did you mean embedded"),
        ("scale", "defaults:\n  - embedded", "defaults: embedded", "be a list"),
        ("scale", "name: minute", "name: hour", "it must be the file's name"),
        ("scale", "looks: [2, 4]", "looks: [4, 2]", "give rising numbers"),
        ("scale", "looks:", "cells: {mask_rato: {}}\n  looks:", "did you mean mask_r"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_starts(
    lab: Path, file: str, before: str, after: str, message: str
) -> None:
    name = {"experiment": "patch_size", "scale": "minute"}[file]
    path = lab / file / f"{name}.yaml"
    edit(path, before, after)
    with pytest.raises(ConfigError) as refused:
        type_overrides(f"--config-dir={lab}", f"{file}={name}")
    assert message in str(refused.value)
    assert str(path) in str(refused.value)


def test_what_a_sweep_sets_cannot_differ_between_rows(lab: Path) -> None:
    edit(lab / "experiment" / "patch_size.yaml", "size=8]", "size=8, seed=3]")
    type_overrides(f"--config-dir={lab}")
    scale = experiments.read_scale("minute")
    with pytest.raises(ConfigError, match="row 8: seed=3 cannot differ between rows"):
        list(experiments.experiment_cells("patch_size", scale))


def test_a_curve_of_numbers_needs_rows_that_are_numbers(lab: Path) -> None:
    path = lab / "experiment" / "patch_size.yaml"
    edit(path, "  default: 4", "  form: curve\n  kind: number")
    type_overrides(f"--config-dir={lab}", "experiment=patch_size")
    edit(path, "8: [data", "large: [data")
    edit(path, "higher: [4, 8]", "best: large")
    # another name: a file is read once in a process
    text = path.read_text().replace("slug: patch_size", "slug: size")
    path.with_stem("size").write_text(text)
    with pytest.raises(ConfigError, match=r"row 'large' is none: .* write kind: case"):
        type_overrides(f"--config-dir={lab}", "experiment=size")


@pytest.mark.parametrize(
    ("group", "name", "typed"),
    [
        ("experiment", "mask_ratio", "experiment=mask_ratio"),
        ("scale", "embedded", "scale=embedded"),
        ("masking", "random", "masking=random"),
        ("masking", "random", "masking=block,random"),
    ],
)
def test_a_file_that_hydra_would_not_take_is_refused(
    lab: Path, group: str, name: str, typed: str
) -> None:
    (lab / group).mkdir(exist_ok=True)
    (lab / group / f"{name}.yaml").write_text("# @package _global_\n")
    with pytest.raises(ConfigError, match=f"conf/{group}/ has a file of that name"):
        type_overrides(f"--config-dir={lab}", typed)


def test_the_first_of_two_folders_counts_as_for_hydra(
    lab: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(lab, tmp_path / "other")
    edit(other / "scale" / "minute.yaml", "[2, 4]", "[2, 5]")
    for first, second, looks in ((lab, other, [2, 4]), (other, lab, [2, 5])):
        typed = f'hydra.searchpath=["file://{first}","file://{second}"]'
        type_overrides(typed, "scale=minute")
        assert experiments.read_scale("minute").looks == looks


# recipes of seconds
SMALL = """
model: {width: 16, depth: 1, heads: 2}
decoder: {width: 16, depth: 1, heads: 2}
pretrain: {epochs: 1, batch_size: 1000}
linear_probe: {epochs: 1, batch_size: 1000}
finetune: {epochs: 1, labels: 100}
watch: {pictures: 1, times: 1}
"""


@pytest.mark.process
def test_a_question_is_decided_reported_and_kept_beside_its_file(
    lab: Path, tmp_path: Path
) -> None:
    path = lab / "scale" / "minute.yaml"
    path.write_text(path.read_text().partition("pretrain:")[0] + SMALL)
    typed = ["--config-dir=lab", "experiment=patch_size", "scale=minute"]
    alone = call(*typed, tiny=False, cwd=tmp_path)
    assert (alone.returncode, "add -m" in alone.stderr) == (2, True), alone.stderr

    sweep = ["-m", *typed, "trainer=cpu", "decide=true", "seeds_max=2"]
    done = call(*sweep, tiny=False, process="forked", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("runs/finetune/*/result.json"))) == 4
    assert "after 4 cells, of 2 claims:" in done.stdout
    assert "src/report.py --config-dir=lab" in done.stdout
    assert "Patch size (own question), 8 of 8 results" in done.stdout
    page = (tmp_path / "runs/report/patch_size/index.html").read_text()
    assert "Questions of our own" in page
    assert "Smaller patches fine-tune better." in page
    assert "differs from the paper" not in page

    keep = [*typed, "keep=true", "format=[svg,latex]"]
    kept = call(*keep, script="report.py", tiny=False, cwd=tmp_path)
    assert kept.returncode == 0, kept.stderr
    folder = lab / "experiments" / "patch_size"
    # of embedded there is only the row that the paper's tables share
    assert [file.name for file in folder.glob("results/*.csv")] == ["minute.csv"]
    readme = (folder / "README.md").read_text()
    assert "train.py -m --config-dir=lab experiment=patch_size scale=minute" in readme
    assert "paper" not in readme
    latex = (
        tmp_path / "runs/report/patch_size/latex/patch_size-minute.tex"
    ).read_text()
    assert "Patch size: our results" in latex

    # without the runs, and with those of no other machine
    shutil.rmtree(tmp_path / "runs")
    found = call(*typed, script="report.py", tiny=False, cwd=tmp_path)
    assert "8 of 8 results are those kept" in found.stdout, found.stderr
    skipped = [*sweep, "hydra.sweeper.skip_kept=true"]
    again = call(*skipped, tiny=False, process="forked", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert not list(tmp_path.glob("runs/pretrain/*/result.json"))
