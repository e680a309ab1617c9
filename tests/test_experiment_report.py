"""A table of the paper beside ours: numbers, progress and headline, and reproducible files."""

import io
import math
import random
import re
from pathlib import Path

import pytest
from rich.console import Console

from planted_results import DEPTH, PARTIAL, SCHEDULE, TOKEN, comparison, results
from small_runs import raw_config
from unmask.config.checks import ConfigError, check
from unmask.config.experiments import experiment_cells, read_paper, read_scale
from unmask.reports.paper.claims import Judging
from unmask.reports.paper.comparison import Finding, compare, judge_claims
from unmask.reports.paper.figures import (
    comparison_figure,
    figure_bytes,
    figure_svg,
    write_figures,
)
from unmask.reports.paper.findings import relative_flops
from unmask.reports.paper.result_rows import (
    ResultRow,
    read_rows,
    rows_to_csv,
    write_rows,
)
from unmask.reports.paper.tables import (
    claims_table,
    describe_correlations,
    experiment_readme,
    format_number,
    markdown_table,
    summary_table,
    terminal_table,
)


def render(table: object, width: int = 200) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_our_numbers_are_compared_with_the_papers_and_each_with_its_default() -> None:
    cell = comparison(DEPTH).cell("lin", "1")
    assert (cell["paper"], cell["count"]) == (65.5, 3)
    assert cell["mean"] == pytest.approx(75.5, abs=0.3)
    assert cell["minus_paper"] == pytest.approx(10.0, abs=0.3)
    assert cell["paper_minus_default"] == pytest.approx(-8.0)
    assert cell["mean_minus_default"] == pytest.approx(-8.0, abs=0.5)
    assert 0 < cell["std"] < 0.4
    assert DEPTH.default == "8"
    default = comparison(DEPTH).cell("lin", "8")
    assert math.isnan(default["mean_minus_default"])
    assert math.isnan(default["paper_minus_default"])


def test_seconds_are_not_subtracted_from_hours() -> None:
    cell = comparison(TOKEN).cell("hours", "with | tokens")
    assert math.isfinite(cell["mean"])
    assert math.isnan(cell["minus_paper"])


def test_a_column_without_a_stage_is_not_ours_and_a_row_may_name_its_stage() -> None:
    assert comparison(PARTIAL).trained_columns == ["mae"]
    assert [list(PARTIAL.column_stages(row)) for row in PARTIAL.rows] == [["mae"]] * 4
    assert "moco" not in comparison(PARTIAL).correlations


def test_progress_counts_each_row_column_and_seed_that_the_scale_makes() -> None:
    half = comparison(SCHEDULE, rows=3)
    assert (half.done, half.expected) == (18, 30)
    without = compare(
        SCHEDULE,
        "schedule",
        "embedded",
        results(SCHEDULE, rows=3),
        3,
        [],
        omitted_rows=["800", "1600"],
    )
    assert (without.done, without.expected) == (18, 18)
    (claim,) = judge_claims(
        SCHEDULE, results(SCHEDULE, rows=3), Judging(), ["800", "1600"]
    )
    assert claim.reason == "This scale leaves out rows “800”, “1600”."
    more_seeds = compare(
        SCHEDULE, "schedule", "embedded", results(SCHEDULE, seeds=5), 3, []
    )
    assert (more_seeds.done, more_seeds.expected) == (30, 30)


def test_the_headline_gives_progress_protocol_differences_and_verdicts() -> None:
    done = comparison(DEPTH).headline
    assert done.startswith("At scale embedded, with one difference from the paper")
    assert re.search(
        "4 claims 1 holds, 1 does not, 1 show no difference, 1 cannot ", done
    )
    half = comparison(SCHEDULE, (), rows=3).headline
    assert "At scale embedded, 18 of 30 results so far, like for like" in half
    assert re.search(
        "1 claim 0 hold, 0 do not, 0 show no difference, 0 cannot be told yet, 1 not run",
        half,
    )
    empty = comparison(PARTIAL, rows=0).headline
    assert empty.startswith("Nothing is measured at scale embedded")
    assert "1 claim " in empty


def test_ranks_are_compared_over_rows_that_both_have() -> None:
    correlation = comparison(SCHEDULE).correlations["lin"]
    assert (correlation.rho, correlation.num_rows) == (pytest.approx(1.0), 5)
    few = comparison(SCHEDULE, rows=2)
    assert (few.correlations["lin"].rho, few.correlations["lin"].num_rows) == (None, 2)
    assert re.search("linear probing: .*2 rows.* 3 ", describe_correlations(few))


def test_results_are_the_same_bytes_in_any_order_and_are_read_back_exactly(
    tmp_path: Path,
) -> None:
    rows = results(DEPTH)
    shuffled = random.Random(0).sample(rows, len(rows))
    assert (
        rows_to_csv(shuffled, DEPTH)
        == rows_to_csv(rows, DEPTH)
        == rows_to_csv([*rows, *rows], DEPTH)
    )
    path = tmp_path / "results" / "embedded.csv"
    write_rows(path, shuffled, DEPTH)
    assert {*read_rows(path)} == {*rows}
    assert rows_to_csv(read_rows(path), DEPTH).encode() == path.read_bytes()
    lines = path.read_text().splitlines()
    assert lines[0] == "row,column,seed,value,images,fingerprint,pretrain"
    assert [line.split(",")[:3] for line in lines[1:5]] == [
        ["1", "ft", "0"],
        ["1", "ft", "1"],
        ["1", "ft", "2"],
        ["1", "lin", "0"],
    ]
    assert lines[-1].startswith("12,lin,2,")  # the paper's order, not the alphabet's
    assert read_rows(tmp_path / "none.csv") == []


def test_rows_that_contradict_each_other_or_the_paper_are_refused(
    tmp_path: Path,
) -> None:
    row = ResultRow("8", "lin", 0, 80.0, 1000, "a", "p")
    with pytest.raises(
        ConfigError,
        match=(r"row '8', column 'lin', seed 0: 80\.0 \(a\) and 81\.0 \(b\); keep one"),
    ):
        rows_to_csv([row, row._replace(value=81.0, fingerprint="b")], DEPTH)
    with pytest.raises(
        ConfigError,
        match=r"row '3', column 'lin'; Table 1a has rows \['1', '2'.*rows",
    ):
        compare(DEPTH, "decoder_depth", "embedded", [row._replace(row="3")], 3, [])
    path = tmp_path / "a.csv"
    path.write_text("row,value\n8,80\n")
    with pytest.raises(
        ConfigError,
        match=r"a\.csv.*\['row', 'value'\].*must be \['row', 'column'",
    ):
        read_rows(path)
    path.write_text(
        "row,column,seed,value,images,fingerprint,pretrain\n8,lin,x,1,1,a,b\n"
    )
    with pytest.raises(ConfigError, match=r"a\.csv.*'x'.*restore or remove"):
        read_rows(path)


def test_the_terminal_shows_numbers_verdicts_and_progress() -> None:
    content = comparison(DEPTH)
    shown = render(terminal_table(content))
    assert "65.5 [-8.0]" in shown
    assert "(n = 3)" in shown
    assert "30 of 30 results" in shown
    verdicts = render(claims_table(content))
    for verdict in ("holds", "does not hold", "no difference", "cannot tell yet"):
        assert verdict in verdicts
    assert "18/30" in render(summary_table([content, comparison(SCHEDULE, rows=3)]))


@pytest.mark.parametrize("width", [80, 100, 200])
def test_nothing_is_cut_off_in_a_narrow_terminal(width: int) -> None:
    contents = [comparison(paper) for paper in (DEPTH, SCHEDULE, TOKEN, PARTIAL)]
    for shown in [
        *map(terminal_table, contents),
        *map(claims_table, contents),
        summary_table(contents),
    ]:
        assert "…" not in render(shown, width)
    head = render(summary_table(contents), width)
    assert {"alike", "cannot", "tell", "not", "run"} <= {*head.split()}


def test_markdown_has_a_line_for_each_row_and_its_pipes_escaped() -> None:
    lines = markdown_table(comparison(TOKEN)).splitlines()
    assert len(lines) == 4
    assert {line.replace("\\|", "").count("|") for line in lines} == {9}
    assert "with \\| tokens" in lines[2]
    assert "| **84.9** |" in markdown_table(comparison(DEPTH))


def test_the_readme_has_question_command_cost_claims_and_differences() -> None:
    finding = Finding(
        comparison(DEPTH), "python src/train.py -m experiment=decoder_depth", "12 min"
    )
    other = Finding(comparison(DEPTH, ()), "the other command")
    text = experiment_readme([finding, other], figures=["embedded"])
    for part in (
        "# Decoder depth (Table 1a)",
        "How deep?",
        "```bash\npython src/train.py -m experiment=decoder_depth\n```",
        "Cost: 12 min.",
        finding.comparison.headline,
        "- **does not hold** ✘ 12 blocks",
        "- digits for ImageNet",
        "](results/embedded.svg)",
        "Nothing: like for like.",
    ):
        assert part in text
    assert text.count("How deep?") == 1
    assert "results/embedded.svg" not in experiment_readme([finding])


def test_zero_has_no_minus() -> None:
    assert [
        format_number(value, sign=True) for value in (-0.04, 0.04, -0.06, math.nan)
    ] == [
        "+0.0",
        "+0.0",
        "-0.1",
        "-",
    ]
    assert format_number(1234.56) == "1,234.6"


@pytest.mark.parametrize(
    "paper", [DEPTH, SCHEDULE, PARTIAL], ids=lambda paper: paper.title
)
def test_figures_are_the_same_bytes_for_the_same_rows(paper: object) -> None:
    content = comparison(paper)  # type: ignore[arg-type]
    assert figure_svg(content) == figure_svg(content)
    assert figure_bytes(content, "png") == figure_bytes(content, "png")
    assert "currentColor" in figure_svg(content, themed=True)  # type: ignore[operator]


def test_each_measurement_has_a_panel_and_each_side_its_own_range() -> None:
    figure = comparison_figure(comparison(DEPTH))
    assert figure is not None
    papers, ours = figure.axes[:2], figure.axes[2:]
    assert [axes.get_ylabel() for axes in papers] == ["paper, top-1 %"] * 2
    assert [axes.get_ylabel() for axes in ours] == ["ours, top-1 %"] * 2
    assert papers[1].get_ylim()[1] < 80 < 83 < ours[1].get_ylim()[1]
    for left, right in zip(papers, ours, strict=True):
        spans = [high - low for low, high in (left.get_ylim(), right.get_ylim())]
        assert spans[0] == pytest.approx(spans[1]), "one unit is as high on both"
        assert spans[0] >= 1.0


def test_levels_are_subtracted_only_where_both_are_of_the_same_images() -> None:
    assert "ours - paper" in markdown_table(comparison(DEPTH, ("pretraining: x",)))
    elsewhere = comparison(DEPTH, ("data: 5,000 digits (the paper: ImageNet-1K)",))
    assert "ours - paper" not in markdown_table(elsewhere)
    assert "65.5 [-8.0]" in markdown_table(elsewhere), "differences to the default row"


def test_an_unfinished_table_is_drawn_as_far_as_it_goes_and_a_plain_table_not(
    tmp_path: Path,
) -> None:
    half = comparison_figure(comparison(SCHEDULE, rows=3))
    none = comparison_figure(comparison(PARTIAL, rows=0))
    assert half is not None
    assert none is not None
    assert [
        len(line.get_xdata())
        for line in half.axes[2].get_lines()
        if line.get_linestyle() == "-"
    ] == [3]
    assert half.axes[1].get_xscale() == "log"
    assert len(none.axes) == 1  # the paper's alone
    write_figures(comparison(TOKEN), tmp_path)
    assert not list(tmp_path.iterdir())
    write_figures(comparison(SCHEDULE, rows=3), tmp_path)
    png, svg = sorted(tmp_path.iterdir())
    assert (png.name, svg.name) == ("schedule-embedded.png", "schedule-embedded.svg")
    assert png.read_bytes().startswith(b"\x89PNG")


def test_flops_need_no_training_and_do_not_count_as_results() -> None:
    paper = read_paper("mask_token")
    configs = {
        cell.row: check(raw_config(*cell.overrides, "data.root=/x", tiny=False))
        for cell in experiment_cells("mask_token", read_scale("paper"), [0])
    }
    flops = relative_flops(paper, configs)
    assert flops["without mask tokens"] == 1
    assert flops["with mask tokens"] == pytest.approx(3.3, rel=0.02), "Table 1c"
    content = compare(paper, "mask_token", "paper", [], 1, [], (), {"flops": flops})
    assert (content.done, content.expected, content.trained_columns) == (
        0,
        4,
        ["ft", "lin"],
    )
    (line,) = (
        line
        for line in markdown_table(content).splitlines()
        if line.startswith("| with mask tokens")
    )
    assert line.endswith("| 3.3 [+2.3] | 3.3 | +0.0 |")
    assert relative_flops(paper, {}) == {}, (
        "without the images no config can be composed"
    )
