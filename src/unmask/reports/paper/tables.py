"""Comparisons as text: for the terminal, and as Markdown for experiments/."""

import math
import re
from collections.abc import Collection, Hashable, Mapping
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.columns import Columns
from rich.console import Group
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from unmask.reports.paper.comparison import Comparison, Finding
from unmask.reports.paper.samples import MIN_RANKED_ROWS
from unmask.reports.render import render

NO_VALUE = "-"
MARKS = {
    "holds": "✔",
    "does not hold": "✘",
    "no difference": "≈",
    "cannot tell yet": "?",
    "not run": "-",
}
STYLES = {
    "holds": "green",
    "does not hold": "red",
    "no difference": "cyan",
    "cannot tell yet": "yellow",
    "not run": "dim",
}
# what a verdict is called where five of them stand side by side in 80 columns
SHORT = {"no difference": "alike", "cannot tell yet": "cannot tell"}


def format_number(value: float, sign: bool = False) -> str:
    """Return the value with one decimal, as the paper prints it."""
    if math.isnan(value):
        return NO_VALUE
    if not sign:
        return f"{value:,.1f}"
    text = f"{value:+,.1f}"
    # -0.04 must not be shown as -0.0
    return "+0.0" if text == "-0.0" else text


def format_ours(cell: Mapping[Hashable, float]) -> str:
    """Return mean ± standard deviation (n = number of seeds).

    A counted value, such as FLOPs, has neither.
    """
    text = format_number(cell["mean"])
    if not cell["count"]:
        return text
    if cell["count"] > 1:
        text += f" ± {format_number(cell['std'])}"
    return f"{text} (n = {cell['count']:.0f})"


def heads(comparison: Comparison, column: str) -> list[str]:
    """Return whose numbers the table has of a column: the paper's, and ours.

    Their difference is there only where both are of the same images, and ours alone
    where the paper does not ask the question.
    """
    if comparison.paper.is_own:
        return ["ours"]
    if column not in comparison.our_columns:
        return ["paper"]
    return ["paper", "ours", *["ours - paper"] * comparison.has_papers_data]


def cell_texts(comparison: Comparison, column: str, row: str) -> list[tuple[str, str]]:
    """Return the numbers of `heads`, each with its difference to the default row."""
    cell = comparison.cell(column, row)
    texts = {
        "paper": (format_number(cell["paper"]), cell["paper_minus_default"]),
        "ours": (format_ours(cell), cell["mean_minus_default"]),
        "ours - paper": (format_number(cell["minus_paper"], sign=True), math.nan),
    }
    return [
        (text, "" if math.isnan(difference) else format_number(difference, sign=True))
        for text, difference in map(texts.__getitem__, heads(comparison, column))
    ]


def row_texts(comparison: Comparison, column: str, row: str) -> list[str]:
    """Return `cell_texts` with the difference in square brackets."""
    return [
        f"{text} [{difference}]" if difference else text
        for text, difference in cell_texts(comparison, column, row)
    ]


def legend_text(comparison: Comparison) -> str:
    """Say how the numbers of the table are to be read."""
    text = "Ours: mean ± standard deviation over n seeds."
    if comparison.paper.default is not None:
        text += (
            " In square brackets: the difference to the default row,"
            f" {comparison.paper.default}."
        )
    return text


def describe_correlations(comparison: Comparison) -> str:
    """Return Spearman's rank correlation of each column, or why there is none.

    Nothing where the paper has no numbers.
    """
    if comparison.paper.is_own:
        return ""
    texts = []
    for column, (rho, count) in comparison.correlations.items():
        rows = "1 row" if count == 1 else f"{count} rows"
        text = f"{rho:+.2f} ({rows})" if rho is not None else f"none of {rows}"
        if count < MIN_RANKED_ROWS:
            text += f", {MIN_RANKED_ROWS} are needed"
        texts.append(f"{comparison.paper.columns[column].title}: {text}")
    return "Rank correlation of our rows with the paper's: " + "; ".join(texts) + "."


def terminal_table(comparison: Comparison) -> Group:
    """Draw the numbers: a small table for each column of the paper.

    They stand side by side where the terminal is wide enough.
    """
    paper = comparison.paper
    title = (
        f"{paper.title} ({paper.paper}), {comparison.done} of"
        f" {comparison.expected} results"
    )
    tables = []
    for name, column in paper.columns.items():
        table = _light_table(
            f"{column.title}, {column.unit}",
            Column(escape(paper.axis)),
            *[
                Column(head, justify="right", no_wrap=head != "ours - paper")
                for head in heads(comparison, name)
            ],
        )
        for row in paper.rows:
            texts = [row.row, *row_texts(comparison, name, row.row)]
            style = "bold" if row.row == paper.default else None
            table.add_row(*map(escape, texts), style=style)
        tables.append(table)
    return Group(
        Text(title, style="italic"),
        Columns(tables, padding=(0, 3)),
        Text(comparison.headline),
        *(Text(f"At this scale: {caveat}.") for caveat in comparison.caveats),
        Text(legend_text(comparison)),
    )


def _light_table(title: str, *columns: Column) -> Table:
    return Table(
        *columns,
        title=escape(title),
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )


def claims_table(comparison: Comparison) -> Table:
    """Draw a line for each claim: verdict, claim and reason."""
    table = Table(
        Column("verdict", min_width=len("cannot tell yet"), max_width=18),
        "claim" if comparison.paper.is_own else "the paper's claim",
        "our rows",
        title="Claims",
        title_justify="left",
        show_lines=True,
    )
    for judged in comparison.claims:
        table.add_row(
            Text(judged.title, STYLES[judged.verdict]),
            escape(judged.claim.says),
            escape(judged.reason),
        )
    return table


def summary_table(comparisons: list[Comparison]) -> Table:
    """Draw a line for each experiment; the table fits into 80 columns."""
    texts = ("experiment", "paper", "scale")
    table = Table(
        *[Column(name, no_wrap=True) for name in texts],
        Column("results", justify="right", no_wrap=True),
        *[
            Column(name, justify="right", min_width=max(map(len, name.split())))
            for name in (SHORT.get(verdict, verdict) for verdict in STYLES)
        ],
        title="Experiments",
        title_justify="left",
        # a box would take another column beside each
        box=None,
        padding=(0, 1, 0, 0),
    )
    for comparison in comparisons:
        counts = [str(comparison.verdict_counts[verdict]) for verdict in STYLES]
        done = f"{comparison.done}/{comparison.expected}"
        # "Table 7 (ImageNet-1K columns)" would not fit.
        number = re.split(r",| \(", comparison.paper.paper)[0]
        table.add_row(comparison.slug, number, comparison.scale, done, *counts)
    return table


def markdown_table(comparison: Comparison) -> str:
    """Return the table as Markdown, the default row in bold."""
    paper = comparison.paper
    titles = [paper.axis]
    for name, column in paper.columns.items():
        first, *others = heads(comparison, name)
        titles += [f"{column.title}, {column.unit}: {first}", *others]
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)]]
    for row in paper.rows:
        texts = [row.row]
        for name in paper.columns:
            texts += row_texts(comparison, name, row.row)
        if row.row == paper.default:
            texts = [text if text == NO_VALUE else f"**{text}**" for text in texts]
        lines.append(texts)
    # a pipe within a name would end the column
    escaped = [[text.replace("|", "\\|") for text in line] for line in lines]
    return "\n".join(f"| {' | '.join(texts)} |" for texts in escaped)


def experiment_readme(findings: list[Finding], figures: Collection[str] = ()) -> str:
    """Return the text of experiments/<slug>/README.md: a section for each scale.

    figures: the scales that have a figure, results/<scale>.svg.
    """
    return render(
        Path(__file__).with_name("readme.md.j2"),
        paper=findings[0].comparison.paper,
        findings=findings,
        figures=figures,
        marks=MARKS,
        markdown_table=markdown_table,
        legend_text=legend_text,
        describe_correlations=describe_correlations,
        sentence=_sentence,
    )


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."
