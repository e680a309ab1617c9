"""src/runs.py: what it lists, compares and explains, as its users read it."""

import json
from pathlib import Path
from typing import Any

import pytest

from planted_ledger import plant, plant_curve
from unmask.commands.runs import run
from unmask.config.checks import ConfigError
from unmask.stages.records import read_ledger

PROBE = ("stages=[linear_probe]", "controls=[]")


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Plant a pretraining and a probe for two mask ratios and three seeds."""
    monkeypatch.chdir(tmp_path)
    for ratio, accuracy in ((0.75, 90.0), (0.9, 80.0)):
        for seed in range(3):
            metrics = {
                "pretrain": {"val/loss": 1 - ratio + seed / 100},
                "linear_probe": {"val/accuracy": accuracy + seed},
            }
            dials = (f"mask_ratio={ratio}", f"seed={seed}")
            plant(Path("runs"), *dials, *PROBE, metrics=metrics, seconds=100.0)
    return tmp_path / "runs"


def rows(capsys: pytest.CaptureFixture[str], *typed: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    run([*typed, "format=json"])
    return json.loads(capsys.readouterr().out)


def text(capsys: pytest.CaptureFixture[str], *typed: str) -> list[str]:
    capsys.readouterr()
    run([*typed])
    return capsys.readouterr().out.splitlines()


def record(ledger: Path, name: str) -> Any:
    (found,) = [r for r in read_ledger(ledger).records if r.name == name]
    return found


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ((), 12),
        (("stage=pretrain",), 6),
        (("mask_ratio=0.9",), 6),
        (("mask_ratio>0.8",), 6),
        (("mask_ratio<=0.75", "seed=0,1"), 4),
        (("mask_ratio!=0.9", "stage=linear_probe"), 3),
        (("state=failed",), 0),
        (("state=done", "age<1h"), 12),
        (("age>1h",), 0),
        (("model=mae_vit_nano",), 12),
        (("model=mae_vit_b",), 0),
        # a pretraining knows no probe's recipe
        (("linear_probe.epochs=90",), 6),
    ],
)
def test_filters_leave_the_stages_that_have_the_value(
    typed: tuple[str, ...], expected: int, ledger: Path, capsys: Any
) -> None:
    assert len(rows(capsys, "list", *typed)) == expected


def test_the_best_result_comes_first(ledger: Path, capsys: Any) -> None:
    probes = rows(capsys, "list", "stage=linear_probe", "sort=result")
    assert [row["value"] for row in probes] == [92.0, 91.0, 90.0, 82.0, 81.0, 80.0]
    losses = rows(capsys, "list", "stage=pretrain", "sort=result", "limit=2")
    assert [row["value"] for row in losses] == pytest.approx([0.1, 0.11])
    assert rows(capsys, "list", "sort=-mask_ratio", "limit=1")[0]["dials"] == {
        "mask_ratio": 0.9
    }


def test_a_line_says_what_differs_and_what_came_out(ledger: Path, capsys: Any) -> None:
    head, *lines, total = text(capsys, "list", "mask_ratio=0.9", "seed=2")
    assert head.split() == ["id", "stage", "differs", "state", "result", "age", "size"]
    (probe,) = [line for line in lines if "linear probe" in line]
    assert "mask_ratio=0.9 s2" in probe
    assert "done" in probe.split()
    assert "  82.0 %  " in probe
    assert total == "2 stages in runs"


def test_seeds_are_grouped_with_mean_and_standard_deviation(
    ledger: Path, capsys: Any
) -> None:
    groups = rows(capsys, "list", "stage=linear_probe", "group=true")
    assert sorted((g["differs"], g["n"], g["mean"], g["std"]) for g in groups) == [
        ("", 3, 91.0, 1.0),
        ("mask_ratio=0.9", 3, 81.0, 1.0),
    ]
    assert any("81.0 ± 1.0" in line for line in text(capsys, "list", "group=true"))


def test_a_table_of_two_dials_has_the_means(ledger: Path, capsys: Any) -> None:
    lines = text(capsys, "list", "stage=linear_probe", "table=mask_ratio,decoder.depth")
    assert lines[0] == "linear probe, % top-1: mean ± standard deviation"
    assert lines[1].split() == ["mask_ratio", "decoder.depth=1"]
    assert lines[2].split(maxsplit=1) == ["0.75", "91.0 ± 1.0 (n=3)"]
    assert lines[3].split(maxsplit=1) == ["0.9", "81.0 ± 1.0 (n=3)"]


def test_a_table_says_what_its_cells_mix(ledger: Path, capsys: Any) -> None:
    lines = text(capsys, "list", "stage=linear_probe", "table=encoder,set")
    assert any(line.startswith("encoder") and "set=mnist5k" in line for line in lines)
    lines = text(capsys, "list", "stage=pretrain", "table=seed,decoder.depth")
    assert "cells also differ in mask_ratio: filter them to one value" in lines


def test_csv_has_the_same_rows(ledger: Path, capsys: Any) -> None:
    head, *lines = text(capsys, "list", "stage=pretrain", "format=csv")
    assert head.startswith("stage,fingerprint,title,name,")
    assert len(lines) == 6


def test_show_has_parents_children_results_and_files(ledger: Path, capsys: Any) -> None:
    parent = record(ledger, "pretrain mask_ratio=0.9 s1")
    child = record(ledger, "linear probe mask_ratio=0.9 s1")
    lines = text(capsys, "show", parent.fingerprint[:6])
    facts = dict(line.split(maxsplit=1) for line in lines[1:] if len(line.split()) > 1)
    assert lines[0] == "pretrain mask_ratio=0.9 s1"
    assert facts["used"] == f"by      {child.key} (linear probe)"
    assert facts["took"] == "100 s"
    assert facts["val/loss"] == "0.11"
    assert "config.yaml" in facts
    (row,) = rows(capsys, "show", child.fingerprint)
    assert row["parent"] == parent.key
    assert row["files"]["config.yaml"] > 1000


def test_compare_shows_only_what_differs(ledger: Path, capsys: Any) -> None:
    first = record(ledger, "pretrain s0")
    second = record(ledger, "pretrain mask_ratio=0.9 s0")
    plant_curve(first.folder, {10: 0.5, 20: 0.3, 30: 0.4})
    plant_curve(second.folder, {10: 0.6, 20: 0.5})
    found = rows(capsys, "compare", first.fingerprint, second.fingerprint)
    values = {
        (row["part"], row["key"]): (row[first.fingerprint], row[second.fingerprint])
        for row in found
    }
    assert values["config", "mask_ratio"] == (0.75, 0.9)
    assert [key for part, key in values if part == "config"] == ["mask_ratio"]
    assert values["results", "val/loss"] == pytest.approx((0.25, 0.1))
    # the last epoch that both have, and the best of each
    assert values["curves", "val/loss at epoch 2"] == (0.3, 0.5)
    assert values["curves", "best val/loss"] == ("0.3 (epoch 2)", "0.5 (epoch 2)")


def test_why_names_the_key_and_the_parent_it_is_of(ledger: Path, capsys: Any) -> None:
    first = record(ledger, "linear probe s0")
    second = record(ledger, "linear probe mask_ratio=0.9 s0")
    lines = text(capsys, "why", first.fingerprint, second.fingerprint)
    assert [line.split() for line in lines[3:]] == [
        ["pretrain:", "mask_ratio", "0.75", "0.9"]
    ]


def test_why_compares_with_a_run_that_is_typed(ledger: Path, capsys: Any) -> None:
    first = record(ledger, "pretrain s0")
    lines = text(capsys, "why", first.fingerprint, "pretrain.epochs=7")
    assert ["pretrain.epochs", "30", "7"] in [line.split() for line in lines]
    # 5 % of all epochs
    assert ["pretrain.warmup_epochs", "1.5", "0.35"] in [line.split() for line in lines]
    same = text(capsys, "why", first.fingerprint, "trainer.timeout_minutes=7")
    assert same[-1] == "one fingerprint: they are the same stage"


def test_why_names_code_that_differs(ledger: Path, capsys: Any) -> None:
    records = [record(ledger, f"pretrain s{seed}") for seed in (0, 1)]
    for each, code in zip(records, ("aaa", "bbb"), strict=True):
        sources = {"unmask/mae.py": f"{code} 111", "unmask/heads.py": f"same {code}"}
        path = each.folder / "result.json"
        path.write_text(json.dumps(each.result | {"sources": sources}))
    lines = text(capsys, "why", *(each.fingerprint for each in records))
    assert lines[-1] == "code that differs, and is in no fingerprint: unmask/mae.py"


def test_du_adds_up(ledger: Path, capsys: Any) -> None:
    first = record(ledger, "pretrain s0")
    (first.folder / "checkpoints").mkdir()
    (first.folder / "checkpoints" / "step=00000001.ckpt").write_bytes(bytes(10_000))
    found = rows(capsys, "du")
    assert found[0]["fingerprint"] == first.fingerprint
    assert found[0]["checkpoints"] == 10_000
    assert sum(row["bytes"] for row in found) == sum(
        path.stat().st_size for path in ledger.glob("*/*/**/*") if path.is_file()
    )
    assert any(line.startswith("12 stages, ") for line in text(capsys, "du"))


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("lst",), "lst: there is no such verb; did you mean list"),
        (("list", "mask_rato=0.9"), "mask_rato: .* did you mean mask_ratio"),
        (("list", "decoder.dpth=4"), "decoder.dpth: .* did you mean decoder.depth"),
        (("list", "sort=decoder.dpth"), "did you mean decoder.depth"),
        (("list", "table=decoder.dpth,seed"), "did you mean decoder.depth"),
        (("list", "stage=probe"), "stage is one of .*linear_probe"),
        (("list", "state=finished"), "state is one of done, running"),
        (("list", "model>mae_vit_b"), "mae_vit_b is no number"),
        (("list", "age<yesterday"), "give an age such as 30m, 2h, 1d"),
        (("list", "sort=accuracy"), "sort=accuracy: one of age, result"),
        (("list", "table=mask_ratio"), "give two dials, such as table=decoder.width"),
        (("list", "yes=true"), "yes=true: list does not take it, rm, prune does"),
        (("list", "abc"), "abc: list takes filters .* show abc shows one stage"),
        (("show",), "show: name a stage, by the first digits"),
        (("show", "zzz"), "zzz: no stage in runs begins so; there are .*pretrain/"),
        (("show", ""), "stages begin so: .*; type more digits"),
        (("compare", "abc"), "compare: name 2 stages"),
        (("rm", "abc", "mask_ratio=0.9"), "mask_ratio=0.9: rm takes no filters"),
        (("list", "--all"), "--all: there is no such option"),
        (("show", "zz", "runs_dir=gone"), "zz: there is no stage in gone; another"),
        (("list", "sort=[a"), r"sort=\[a: the value is no YAML; close brackets"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    typed: tuple[str, ...], message: str, ledger: Path
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        run([*typed])
    assert "\n" not in str(error.value)


def test_a_terminal_of_80_columns_folds_what_is_long(
    ledger: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(ledger, "pretrain.epochs=5", "decoder.width=32", "mask_ratio=0.9", *PROBE)
    piped = text(capsys, "list")
    assert max(map(len, piped)) > 80
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, text(capsys, "list"))) <= 80
