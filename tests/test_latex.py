"""Tables and figures of a report that are ready to include in a paper."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from planted_results import DEPTH, SCHEDULE, TOKEN, comparison
from unmask.reports.paper.figures import OUR_COLOURS, PAPER_COLOURS, write_figures
from unmask.reports.paper.latex import escape, latex_table
from unmask.reports.paper.tables import row_texts


def has_booktabs() -> bool:
    find = shutil.which("kpsewhich")
    return (
        bool(find)
        and not subprocess.run([find, "booktabs.sty"], check=False).returncode
    )


def test_every_number_of_the_table_stands_in_its_row_and_column() -> None:
    table = comparison(DEPTH)
    text = latex_table(table)
    rows = text.partition(r"\midrule")[2].partition(r"\bottomrule")[0]
    lines = [line.removesuffix(r" \\") for line in rows.strip().splitlines()]
    assert len(lines) == len(DEPTH.rows)
    for line, row in zip(lines, DEPTH.rows, strict=True):
        name, *cells = line.split(" & ")
        expected = [
            escape(t) for c in DEPTH.columns for t in row_texts(table, c, row.row)
        ]
        if row.row == DEPTH.default:
            expected = [rf"\textbf{{{text}}}" for text in expected]
            name = name.removeprefix(r"\textbf{").removesuffix("}")
        assert (name, cells) == (row.row, expected)


def test_heads_span_the_columns_that_they_are_about() -> None:
    text = latex_table(comparison(DEPTH))
    spans = [int(span) for span in re.findall(r"\\multicolumn\{(\d)\}", text)]
    (form,) = re.findall(r"\\begin\{tabular\}\{(l r*|lr+)\}", text)
    assert sum(spans) == len(form) - 1
    rules = re.findall(r"\\cmidrule\(lr\)\{(\d+)-(\d+)\}", text)
    assert rules[0][0] == "2"
    assert int(rules[-1][1]) == len(form)


@pytest.mark.parametrize(
    ("plain", "latex"),
    [
        ("50 % & more", r"50 \% \& more"),
        (r"a\b_c{d}", r"a\textbackslash{}b\_c\{d\}"),
        ("83.0 ± 1.2 [-0.3]", r"83.0 $\pm$ 1.2 [$-$0.3]"),
        # a hyphen stays one
        ("ours - paper, top-1", "ours - paper, top-1"),
    ],
)
def test_what_latex_would_read_as_a_command_is_escaped(plain: str, latex: str) -> None:
    assert escape(plain) == latex


@pytest.mark.skipif(not has_booktabs(), reason="LaTeX with booktabs is not installed")
@pytest.mark.parametrize("paper", [DEPTH, SCHEDULE, TOKEN])
def test_the_table_compiles(paper: object, tmp_path: Path) -> None:
    (tmp_path / "table.tex").write_text(latex_table(comparison(paper)))
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}"
        "\\input{table}\\end{document}\n"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_figures_come_in_the_forms_that_were_asked_for_and_repeat(
    tmp_path: Path,
) -> None:
    (path,) = write_figures(comparison(SCHEDULE), tmp_path, ["pdf"])
    content = path.read_bytes()
    assert path.name == "schedule-embedded.pdf"
    assert content.startswith(b"%PDF-")
    # fonts are embedded as outlines that printers and venues take
    assert b"/FontFile2" in content
    assert b"/Type3" not in content
    write_figures(comparison(SCHEDULE), tmp_path, ["pdf"])
    assert path.read_bytes() == content


# What a person without one kind of cones sees (Viénot, Brettel and Mollon 1999), in
# linear RGB.
DEUTERANOPE = ((0.29275, 0.70725, 0), (0.29275, 0.70725, 0), (-0.02234, 0.02234, 1))
PROTANOPE = ((0.11238, 0.88762, 0), (0.11238, 0.88762, 0), (0.00401, -0.00401, 1))


@pytest.mark.parametrize("matrix", [DEUTERANOPE, PROTANOPE])
def test_colours_of_one_panel_stay_apart_for_the_colour_blind(
    matrix: tuple[tuple[float, ...], ...],
) -> None:
    colours = [OUR_COLOURS[0], *PAPER_COLOURS[:2]]
    seen = [_seen(colour, matrix) for colour in colours]
    for i, first in enumerate(seen):
        for second in seen[i + 1 :]:
            distance = sum((a - b) ** 2 for a, b in zip(first, second, strict=True))
            assert distance**0.5 > 0.15, colours


def _seen(colour: str, matrix: tuple[tuple[float, ...], ...]) -> list[float]:
    linear = [(int(colour[i : i + 2], 16) / 255) ** 2.2 for i in (1, 3, 5)]
    mixed = [sum(w * c for w, c in zip(row, linear, strict=True)) for row in matrix]
    return [max(value, 0) ** (1 / 2.2) for value in mixed]
