"""A report finds every result of the ledger and of experiments/, and none of another experiment."""

import hashlib
import html
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from rich.console import Console

from planted_ledger import kept_in, plant
from small_runs import ROOT, image_folder, plan_for
from unmask.commands.composition import Composer
from unmask.config.checks import ConfigError, check, fill_missing_roots
from unmask.config.conf_files import CONF
from unmask.config.experiments import read_paper
from unmask.reports.paper import findings, result_rows
from unmask.reports.paper.arguments import Report
from unmask.reports.paper.comparison import Finding
from unmask.reports.paper.page import render_paper_page
from unmask.reports.paper.result_rows import ResultRow, write_rows
from unmask.reports.paper.tables import experiment_readme, terminal_table
from unmask.stages.ledger import StageFolder


def report_of(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    collect: Callable[..., list[Finding]] = findings.collect_findings,
    **changes: Any,
) -> list[Finding]:
    """Return what src/report.py finds of mask_token with an empty ledger and tmp_path as experiments/."""
    kept_in(tmp_path, monkeypatch)
    values = {
        "experiment": "mask_token",
        "scale": "embedded",
        "runs_dir": str(tmp_path / "runs"),
        "out": None,
        "keep": False,
        "seeds": None,
        "overrides": [],
        "format": ["svg", "png"],
    } | changes
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composer = Composer()
        return collect(
            Report(**values),
            lambda overrides: check(fill_missing_roots(composer(overrides))),
        )


@pytest.fixture
def two_kept_rows(tmp_path: Path) -> list[ResultRow]:
    """Keep two seeds of a row in tmp_path, one of which no scale has."""
    rows = []
    for seed in (1, 7):
        spec = result_rows.measured_stage(
            plan_for("scale=embedded", f"seed={seed}", tiny=False), "finetune"
        )
        assert spec is not None
        rows.append(
            ResultRow(
                "without mask tokens",
                "ft",
                seed,
                90.0 + seed,
                1000,
                spec.fingerprint,
                "",
            )
        )
    write_rows(
        tmp_path / "mask_token" / "results" / "embedded.csv",
        rows,
        read_paper("mask_token"),
    )
    return rows


def test_keep_writes_every_seed_whichever_seeds_are_selected(
    two_kept_rows: list[ResultRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert report_of(tmp_path, monkeypatch)[0].rows == two_kept_rows
    assert report_of(tmp_path, monkeypatch, seeds=[7])[0].rows == two_kept_rows[1:]
    assert (
        report_of(tmp_path, monkeypatch, seeds=[7, 8], keep=True)[0].rows
        == two_kept_rows
    )
    with pytest.raises(
        ConfigError, match=r"keep=true with overrides=.*mask_ratio=0\.5"
    ):
        report_of(tmp_path, monkeypatch, overrides=["mask_ratio=0.5"], keep=True)


def test_a_scale_of_images_is_kept_beside_one_that_needs_no_folder(
    two_kept_rows: list[ResultRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The README has both; data.root is of the scale that was asked for alone."""
    for split in ("train", "test"):
        image_folder(tmp_path / "images" / split, per_class=2500)  # the scale's labels
    photos, digits = report_of(
        tmp_path,
        monkeypatch,
        collect=findings.collect_to_keep,
        scale="photos_jpeg",
        overrides=[f"data.root={tmp_path / 'images'}"],
        keep=True,
    )
    assert (photos.comparison.scale, photos.rows) == ("photos_jpeg", [])
    assert (digits.comparison.scale, digits.rows) == ("embedded", two_kept_rows)
    # a kept README names no folder of the machine that wrote it
    assert photos.command.endswith("scale=photos_jpeg data.root=/path/to/images")
    assert digits.command.endswith("scale=embedded")


def test_kept_results_are_not_those_of_other_overrides(
    two_kept_rows: list[ResultRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (finding,) = report_of(tmp_path, monkeypatch, overrides=["mask_ratio=0.5"])
    assert not finding.rows
    with pytest.raises(ConfigError, match="init_from"):
        report_of(tmp_path, monkeypatch, overrides=["init_from=/not/here.pth"])
    with pytest.raises(ConfigError, match="mask_ratio"):
        report_of(tmp_path, monkeypatch, scale="paper", overrides=["mask_ratio=2"])


def test_kept_results_are_shown_where_the_images_are_not_on_this_machine(
    two_kept_rows: list[ResultRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row._replace(fingerprint="0" * 12, seed=0) for row in two_kept_rows[:1]]
    write_rows(
        tmp_path / "mask_token" / "results" / "paper.csv",
        rows,
        read_paper("mask_token"),
    )
    (finding,) = report_of(tmp_path, monkeypatch, scale="paper")
    assert finding.rows == rows
    assert re.search("data.root.*kept in experiments/", finding.notes[0])
    assert not report_of(
        tmp_path, monkeypatch, scale="paper", overrides=["mask_ratio=0.5"]
    )[0].rows


@pytest.mark.parametrize("digest", ["another", "the same", None])
def test_results_of_code_that_has_changed_are_noted(
    digest: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = "unmask/masking.py"
    plan = plan_for("scale=embedded", "seed=0", tiny=False)
    spec = result_rows.measured_stage(plan, "finetune")
    assert spec is not None
    content = hashlib.sha256((ROOT / "src" / file).read_bytes()).hexdigest()[:12]
    known = {"another": "0 0", "the same": f"0 {content}"}
    facts = {"seconds": 1.0, "images": 1000}
    if digest:
        facts["sources"] = {file: known[digest]}
    folder = StageFolder(tmp_path / "runs", spec)
    folder.create()
    folder.finish({"val/accuracy": 90.0}, facts)
    (finding,) = report_of(tmp_path, monkeypatch)
    assert [row.value for row in finding.rows] == [90.0]
    notes = [note for note in finding.notes if "changed since" in note]
    if digest != "another":
        assert not notes
        return
    (note,) = notes
    assert note.startswith(f"mask_token: {file} changed since")
    assert "rerun=true" in note
    assert "adopt=true" in note


def test_an_override_of_what_the_table_varies_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="are one run"):
        report_of(tmp_path, monkeypatch, overrides=["encoder.mask_tokens=true"])


@pytest.mark.parametrize(
    "wrong",
    [{"value": 101.0}, {"value": float("nan")}, {"images": 0}, {"seed": -1}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_an_impossible_kept_result_is_refused(
    wrong: dict[str, Any],
    two_kept_rows: list[ResultRow],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "mask_token" / "results" / "embedded.csv"
    fields = {**two_kept_rows[0]._asdict(), **wrong}
    path.write_text(f"{','.join(fields)}\n{','.join(map(str, fields.values()))}\n")
    ((key, value),) = wrong.items()
    with pytest.raises(ConfigError, match=rf"Table 1c.*{key}={value}"):
        report_of(tmp_path, monkeypatch)


def test_two_values_of_one_stage_are_refused(
    two_kept_rows: list[ResultRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = two_kept_rows[0]._replace(row="hidden patches", value=12.5)
    write_rows(
        tmp_path / "loss_on_all" / "results" / "embedded.csv",
        [other],
        read_paper("loss_on_all"),
    )
    with pytest.raises(
        ConfigError,
        match=r"91\.0, but 12\.5.*correct one|12\.5, but 91\.0.*correct one",
    ):
        report_of(tmp_path, monkeypatch)


def test_seeds_beyond_the_scales_are_found_row_by_row_with_what_they_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeds that a row lacks end its search, and cost nothing in the sum of the stages."""
    metrics = {
        "pretrain": {"val/loss": 0.5},
        "finetune": {"val/accuracy": 90.0},
        "linear_probe": {"val/accuracy": 80.0},
    }
    for seed in (0, 1, 2, 3, 4, 6):
        plant(
            tmp_path / "runs",
            "scale=embedded",
            f"seed={seed}",
            metrics=metrics,
            seconds=1200.0,
        )
    (finding,) = report_of(tmp_path, monkeypatch)
    assert sorted({row.seed for row in finding.rows}) == [0, 1, 2, 3, 4]
    assert finding.cost.startswith("8 x pretrain")
    other = "encoder.mask_tokens=true"
    plant(tmp_path / "runs", "scale=embedded", other, "seed=0", metrics=metrics)
    (finding,) = report_of(tmp_path, monkeypatch)
    reasons = [judged.reason for judged in finding.comparison.claims]
    # two seeds of 3 x 60 s more of the other row
    assert "That is 2 more runs, 6 minutes of computing." in reasons[0]
    judged = report_of(tmp_path, monkeypatch, anytime=True)[0].comparison.claims[0]
    assert "the first look is after 2 seeds" in judged.reason


def test_a_solved_probe_has_no_place_in_the_column_of_a_trained_one(
    two_kept_rows: list[ResultRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But at a scale whose file chooses it."""
    exact = ["linear_probe=exact"]
    with pytest.raises(ConfigError, match="take a scale with it, such as") as error:
        report_of(tmp_path, monkeypatch, overrides=exact)
    assert "\n" not in str(error.value)
    (finding,) = report_of(
        tmp_path, monkeypatch, scale="embedded_exact", overrides=exact
    )
    assert finding.comparison.scale == "embedded_exact"


def test_what_the_scale_says_of_a_table_stands_beside_its_numbers(
    two_kept_rows: list[ResultRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (finding,) = report_of(tmp_path, monkeypatch)
    (caveat,) = finding.comparison.caveats
    assert "far from converged" in caveat
    console = Console(width=2000, file=io.StringIO())
    console.print(terminal_table(finding.comparison))
    assert isinstance(console.file, io.StringIO)
    shown = [console.file.getvalue(), experiment_readme([finding])]
    shown.append(html.unescape(render_paper_page([finding], "")))
    assert all(caveat in " ".join(text.split()) for text in shown)
