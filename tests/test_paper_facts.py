"""The paper's numbers, our sweeps and its claims fit together; every claim is true of its own numbers."""

from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from small_runs import ROOT
from unmask.config.recipes import StageName

SLUGS = sorted(path.parent.name for path in (ROOT / "experiments").glob("*/paper.yaml"))
ABLATIONS = (
    "decoder_depth",
    "decoder_width",
    "mask_token",
    "reconstruction_target",
    "data_augmentation",
    "mask_sampling",
    "mask_ratio",
    "schedule",
    "loss_on_all",
)
REQUIRED = {
    "title",
    "paper",
    "question",
    "source",
    "protocol",
    "axis",
    "kind",
    "form",
    "default",
    "columns",
    "rows",
    "claims",
}
FORMS = {"best", "rising", "falling", "higher", "within"}
Table = dict[str, Any]


def read_yaml(path: Path) -> Table:
    loaded = yaml.safe_load(path.read_text())
    assert isinstance(loaded, dict)
    return loaded


def paper(slug: str) -> Table:
    return read_yaml(ROOT / "experiments" / slug / "paper.yaml")


def cells(slug: str) -> dict[str, list[str]]:
    sweep = read_yaml(ROOT / "conf" / "experiment" / f"{slug}.yaml")["sweep"]
    assert sweep["slug"] == slug
    return sweep["cells"]


def rows(facts: Table) -> dict[str, Table]:
    return {row["row"]: row for row in facts["rows"]}


def column(facts: Table, name: str) -> dict[str, int]:
    """Return what the paper prints, in tenths.

    As whole numbers: 84.9 - 84.4 is 5 and not 5.000000000000004.
    """
    values = {label: row.get(name) for label, row in rows(facts).items()}
    return {
        label: round(10 * value) for label, value in values.items() if value is not None
    }


def named_rows(claim: Table) -> list[str]:
    """Return the rows that a claim names."""
    if "within" in claim:
        return claim["rows"]
    if "best" in claim:
        return [claim["best"]]
    return next(
        claim[form] for form in ("rising", "falling", "higher") if form in claim
    )


def holds(claim: Table, values: dict[str, int]) -> bool:
    numbers = [values[row] for row in named_rows(claim)]
    if "within" in claim:
        return all(
            abs(a - b) < round(10 * claim["within"])
            for a, b in combinations(numbers, 2)
        )
    if "best" in claim:
        return all(
            numbers[0] > value for row, value in values.items() if row != claim["best"]
        )
    margin = round(10 * claim.get("by", 0))
    return all(
        (b - a if "rising" in claim else a - b) > margin for a, b in pairwise(numbers)
    )


def test_every_table_and_figure_that_we_have_stages_for_is_there() -> None:
    others = {
        "partial_finetuning",
        "baseline",
        "wall_clock",
        "imagenet_finetune",
        "scaling",
        "pixels_vs_tokens",
        "linear_probe_comparison",
        "robustness",
        "scratch",
    }
    assert set(SLUGS) == {*ABLATIONS, *others}
    listed = (ROOT / "experiments" / "README.md").read_text()
    assert all(f"`{slug}`" in listed for slug in SLUGS)


@pytest.mark.parametrize("slug", SLUGS)
def test_a_table_is_complete(slug: str) -> None:
    facts = paper(slug)
    assert facts.keys() - {"x_scale", "metric", "unlike"} == REQUIRED
    assert facts["kind"] in ("number", "case")
    assert facts["form"] in ("bars", "curve", "table")
    assert len(rows(facts)) == len(facts["rows"]), "a row label is there twice"
    assert all(isinstance(label, str) for label in rows(facts))
    for row in facts["rows"]:
        assert row.keys() - {"row", "stages"} <= facts["columns"].keys()
        assert row.get("stages", {}).keys() <= row.keys() & facts["columns"].keys()
    if facts["kind"] == "number":
        positions = [float(label) for label in rows(facts)]
        assert positions == sorted(positions)
    known = {*get_args(StageName), None}
    assert {c.get("stage") for c in facts["columns"].values()} <= known
    assert {
        stage for row in facts["rows"] for stage in row.get("stages", {}).values()
    } <= known


@pytest.mark.parametrize("slug", SLUGS)
def test_every_cell_is_a_row_and_every_row_that_a_stage_can_fill_is_a_cell(
    slug: str,
) -> None:
    facts = paper(slug)
    filled = {name for name, c in facts["columns"].items() if c.get("stage")}
    fillable = [label for label, row in rows(facts).items() if filled & row.keys()]
    assert list(cells(slug)) == fillable, (
        "the sweep has the paper's rows in the paper's order"
    )
    chosen = [tuple(sorted(overrides)) for overrides in cells(slug).values()]
    assert len(set(chosen)) == len(chosen), "two rows are one run"


@pytest.mark.parametrize("slug", SLUGS)
def test_a_cell_runs_the_stages_that_fill_its_row(slug: str) -> None:
    """Scales run linear probing and fine-tuning, which pretrain; a cell that needs others says so."""
    facts = paper(slug)
    for label, overrides in cells(slug).items():
        stages = [
            o.removeprefix("stages=[").rstrip("]").split(",")
            for o in overrides
            if o.startswith("stages=")
        ]
        run = {*(stages[0] if stages else ["linear_probe", "finetune"])}
        run |= {"pretrain"} if run - {"scratch"} else set()
        row = rows(facts)[label]
        needed = {
            row.get("stages", {}).get(c, facts["columns"][c].get("stage"))
            for c in row.keys() & facts["columns"]
        }
        assert needed - {None} <= run, label


@pytest.mark.parametrize("slug", SLUGS)
def test_the_default_row_is_the_default_cell(slug: str) -> None:
    default, overrides = paper(slug)["default"], cells(slug)
    assert [label for label, cell in overrides.items() if not cell] == (
        [default] if default else []
    )


@pytest.mark.parametrize("slug", [*ABLATIONS, "wall_clock", "baseline"])
def test_the_default_is_the_same_run_in_every_table(slug: str) -> None:
    """He et al. Table 1: 84.9 fine-tuned and 73.5 linear, the same entry in every sub-table and figure."""
    row = rows(paper(slug))[paper(slug)["default"]]
    assert row["ft"] == 84.9
    assert row["lin"] == 73.5 if slug in ABLATIONS else "lin" not in row


def test_numbers_that_the_paper_prints_twice_are_the_same() -> None:
    table3, table2 = rows(paper("imagenet_finetune")), rows(paper("wall_clock"))
    figure8, table7, scratch = (
        rows(paper("scaling")),
        rows(paper("pixels_vs_tokens")),
        rows(paper("scratch")),
    )
    figure9, depth, tokens = (
        rows(paper("partial_finetuning")),
        rows(paper("decoder_depth")),
        rows(paper("mask_token")),
    )
    for model, params in (("ViT-B", "86"), ("ViT-L", "304"), ("ViT-H", "632")):
        mae, supervised = (
            table3[f"MAE, {model}"]["ft"],
            table3[f"scratch, {model}"]["ft"],
        )
        assert (
            mae == figure8[params]["mae"] == table7[f"normalised pixel, {model}"]["ft"]
        )
        assert (
            supervised
            == figure8[params]["scratch"]
            == scratch[f"{model}, averaged"]["top1"]
        )
    assert (figure9["0"]["mae"], figure9["24"]["mae"]) == (73.5, 84.9)
    assert table2["ViT-L, 1 block"]["ft"] == depth["1"]["ft"]
    assert table2["ViT-L with mask tokens"]["ft"] == tokens["with mask tokens"]["ft"]
    ratio, sampling = (
        rows(paper("mask_ratio"))["75"],
        rows(paper("mask_sampling"))["random 75"],
    )
    assert all(ratio[name] == sampling[name] for name in ("ft", "lin"))


def test_the_speed_ups_follow_from_the_hours() -> None:
    table = rows(paper("wall_clock"))
    for model in ("ViT-L", "ViT-H"):
        for label in (model, f"{model}, 1 block"):
            ratio = table[f"{model} with mask tokens"]["hours"] / table[label]["hours"]
            assert ratio == pytest.approx(table[label]["speedup"], abs=0.06)


def test_derived_numbers_are_marked_as_derived() -> None:
    """Footnote 1 gives a difference only: our number says so, and the unknown one stays empty."""
    facts = paper("loss_on_all")
    assert "derived" in facts["protocol"]
    assert rows(facts)["all patches"]["lin"] is None


@pytest.mark.parametrize(
    "claim",
    [
        {"best": "4"},  # 73.5 at 8 is above
        {"rising": ["1", "8", "12"]},
        {"falling": ["8", "12", "1", "2"]},
        {"higher": ["12", "8"]},
        {"higher": ["8", "1"], "by": 8.0},  # by 8.0 exactly, which is not above
        {"within": 0.2, "rows": ["8", "12"]},  # 0.2 apart, which is not within
    ],
)
def test_a_claim_can_be_false(claim: Table) -> None:
    assert not holds(claim, column(paper("decoder_depth"), "lin"))


@pytest.mark.parametrize("slug", SLUGS)
def test_every_claim_is_true_of_the_papers_own_numbers(slug: str) -> None:
    facts = paper(slug)
    assert 1 <= len(facts["claims"]) <= 6
    for claim in facts["claims"]:
        extra = {"rows"} if "within" in claim else {"by"} & claim.keys()
        assert len(FORMS & claim.keys()) == 1
        assert claim.keys() == {"says", "column"} | (FORMS & claim.keys()) | extra, (
            claim
        )
        assert facts["columns"][claim["column"]].get("stage"), (
            "a claim on a column that no stage fills"
        )
        values = column(facts, claim["column"])
        assert set(named_rows(claim)) <= values.keys(), claim
        assert set(named_rows(claim)) <= cells(slug).keys(), claim
        assert holds(claim, values), claim["says"]


@pytest.mark.parametrize("slug", SLUGS)
def test_a_claim_cites_the_paper_and_states_its_margin(
    slug: str,
) -> None:
    for claim in paper(slug)["claims"]:
        text = claim["says"]
        assert any(
            part in text
            for part in (
                "(Sec. ",
                "A.2)",
                "(Appendix C",
                "(Table 3)",
                "footnote 1",
                "(read off ",
            )
        ), text
        if "within" in claim:
            assert f"{claim['within']:g} point" in text, text


@pytest.mark.parametrize("slug", SLUGS)
def test_a_margin_is_the_papers_spread_plus_rounding(slug: str) -> None:
    """Printed numbers are up to 0.05 off, so a printed spread of 0.5 is one of less than 0.6."""
    # tenths: the largest of Table 7's differences stands for all, and "about 0.5" is
    # read as less than 1
    spreads = {"pixels_vs_tokens": 2, "loss_on_all": 9}
    for claim in paper(slug)["claims"]:
        if "within" in claim:
            numbers = [
                column(paper(slug), claim["column"])[row] for row in claim["rows"]
            ]
            spread = spreads.get(slug, max(numbers) - min(numbers))
            assert max(numbers) - min(numbers) <= spread
            assert round(10 * claim["within"]) == spread + 1, claim


@pytest.mark.parametrize("slug", SLUGS)
def test_the_sweep_opens_with_question_run_cost_result(slug: str) -> None:
    lines = (ROOT / "conf" / "experiment" / f"{slug}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1] == f"# Question : {paper(slug)['question']}"
    assert lines[2].startswith(
        f"# Run      : python src/train.py -m experiment={slug} scale="
    )
    assert lines[3].startswith("# Cost     : ")
    readme = f"experiments/{slug}/README.md"
    none = f"none is kept yet; python src/report.py experiment={slug} keep=true"
    kept = (ROOT / readme).exists()
    assert lines[4] == f"# Result   : {readme if kept else none}"


@pytest.mark.parametrize("slug", SLUGS)
def test_a_source_names_authors_venue_preprint_and_table(slug: str) -> None:
    facts = paper(slug)
    assert facts["source"].startswith("He et al. 2022 (CVPR; arXiv 2111.06377v3), ")
    table = (
        facts["paper"]
        .split(" (")[0]
        .replace("Footnote", "footnote")
        .replace("Section", "Sec.")
    )
    assert table in facts["source"]


def test_the_four_sources_of_the_numbers_are_named() -> None:
    text = " ".join((ROOT / "experiments" / "README.md").read_text().split())
    for name in (
        "CVPR 2022 PDF",
        "ar5iv",
        "pictures of v3's tables and figures",
        "facebookresearch/mae",
    ):
        assert name in text


@pytest.mark.parametrize("slug", SLUGS)
def test_overrides_are_hydras_and_name_groups_that_exist(slug: str) -> None:
    parser = OverridesParser.create()
    for label, overrides in cells(slug).items():
        for parsed in parser.parse_overrides(overrides):
            assert not parsed.is_sweep_override(), f"{label}: a cell is one run"
            group = ROOT / "conf" / parsed.key_or_group
            if group.is_dir() and (ROOT / "conf" / "scale").is_dir():
                assert (group / f"{parsed.value()}.yaml").exists(), (
                    f"{label}: {parsed.input_line}"
                )


@pytest.mark.parametrize("slug", SLUGS)
def test_the_schema_reads_the_facts_as_they_are_written(slug: str) -> None:
    experiments = pytest.importorskip("unmask.config.experiments")
    read_in, facts = experiments.read_paper(ROOT / "experiments" / slug), paper(slug)
    assert [row.row for row in read_in.rows] == list(rows(facts))
    assert len(read_in.claims) == len(facts["claims"])
    for row in read_in.rows:
        printed = {name: rows(facts)[row.row].get(name) for name in facts["columns"]}
        assert {name: row.values.get(name) for name in printed} == printed
