"""What a report finds: in the ledger, and among the results kept beside the paper's numbers, none lost and none borrowed."""

from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir

from hydra_plugins.composition import Composer
from small_runs import plan_for
from unmask.config.arguments import Report
from unmask.config.checks import ConfigError, check, elsewhere
from unmask.config.experiments import CONF, read_paper
from unmask.reports.paper import findings, result_rows
from unmask.reports.paper.findings import Finding
from unmask.reports.paper.result_rows import ResultRow, write_rows


def report_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **given: Any
) -> list[Finding]:
    """What src/report.py finds of mask_token with an empty ledger, where tmp_path holds what is kept."""
    for module in (result_rows, findings):
        monkeypatch.setattr(module, "EXPERIMENTS", tmp_path)
    told = {
        "experiment": "mask_token",
        "scale": "embedded",
        "runs_dir": str(tmp_path / "runs"),
        "out": None,
        "keep": False,
        "seeds": None,
        "overrides": [],
    } | given
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composer = Composer()
        return findings.findings(
            Report(**told), lambda overrides: check(elsewhere(composer(overrides)))
        )


@pytest.fixture
def kept_twice(tmp_path: Path) -> list[ResultRow]:
    """Two seeds of a row, one that no scale has, kept in tmp_path."""
    rows = []
    for seed in (1, 7):
        spec = result_rows.measured(
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


def test_keeping_loses_no_seed_whichever_are_asked_for(
    kept_twice: list[ResultRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert report_of(tmp_path, monkeypatch)[0].rows == kept_twice
    assert report_of(tmp_path, monkeypatch, seeds=[7])[0].rows == kept_twice[1:]
    assert (
        report_of(tmp_path, monkeypatch, seeds=[7, 8], keep=True)[0].rows == kept_twice
    )
    with pytest.raises(ConfigError, match="keep=true with overrides"):
        report_of(tmp_path, monkeypatch, overrides=["mask_ratio=0.5"], keep=True)


def test_what_is_kept_is_no_result_of_other_overrides(
    kept_twice: list[ResultRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = report_of(tmp_path, monkeypatch, overrides=["mask_ratio=0.5"])
    assert not found.rows
    with pytest.raises(ConfigError, match="init_from"):
        report_of(tmp_path, monkeypatch, overrides=["init_from=/not/here.pth"])
    with pytest.raises(ConfigError, match="mask_ratio"):
        report_of(tmp_path, monkeypatch, scale="paper", overrides=["mask_ratio=2"])


def test_what_is_kept_stands_where_the_images_are_not(
    kept_twice: list[ResultRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row._replace(fingerprint="0" * 12, seed=0) for row in kept_twice[:1]]
    write_rows(
        tmp_path / "mask_token" / "results" / "paper.csv",
        rows,
        read_paper("mask_token"),
    )
    (found,) = report_of(tmp_path, monkeypatch, scale="paper")
    assert found.rows == rows
    assert "only kept ones are known" in found.notes[0]
    assert not report_of(
        tmp_path, monkeypatch, scale="paper", overrides=["mask_ratio=0.5"]
    )[0].rows


def test_an_override_of_what_a_table_varies_is_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="are one run"):
        report_of(tmp_path, monkeypatch, overrides=["encoder.mask_tokens=true"])


@pytest.mark.parametrize(
    "wrong",
    [{"value": 101.0}, {"value": float("nan")}, {"images": 0}, {"seed": -1}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_kept_result_that_cannot_be_is_named(
    wrong: dict[str, Any],
    kept_twice: list[ResultRow],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "mask_token" / "results" / "embedded.csv"
    fields = {**kept_twice[0]._asdict(), **wrong}
    path.write_text(f"{','.join(fields)}\n{','.join(map(str, fields.values()))}\n")
    with pytest.raises(ConfigError, match="Table 1c have"):
        report_of(tmp_path, monkeypatch)


def test_one_stage_has_one_value(
    kept_twice: list[ResultRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = kept_twice[0]._replace(row="hidden patches", value=12.5)
    write_rows(
        tmp_path / "loss_on_all" / "results" / "embedded.csv",
        [other],
        read_paper("loss_on_all"),
    )
    with pytest.raises(
        ConfigError,
        match=r"91\.0, but 12\.5 in another table|12\.5, but 91\.0 in another",
    ):
        report_of(tmp_path, monkeypatch)
