"""Comparisons as text: for the terminal, and as Markdown for experiments/."""

import re

from rich.box import SIMPLE_HEAD
from rich.columns import Columns
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from unmask.config.paper_facts import Paper
from unmask.reports.paper.bootstrap import MIN_RANKED_ROWS
from unmask.reports.paper.comparison import (
    Comparison,
    Correlation,
    Section,
    TableCell,
    TableRow,
)

NO_VALUE = "-"
MARKS = {"holds": "✔", "does not hold": "✘", "cannot tell": "?"}
STYLES = {"holds": "green", "does not hold": "red", "cannot tell": "yellow"}


def format_number(value: float | None, sign: bool = False) -> str:
    """Return the value with one decimal, as the paper prints it."""
    if value is None:
        return NO_VALUE
    if not sign:
        return f"{value:,.1f}"
    text = f"{value:+,.1f}"
    # -0.04 must not be shown as -0.0
    return "+0.0" if text == "-0.0" else text


def format_ours(cell: TableCell) -> str:
    """Return mean ± standard deviation (n = number of seeds).

    A counted value, such as FLOPs, has neither.
    """
    if cell.mean is None:
        return NO_VALUE
    text = format_number(cell.mean)
    if not cell.num_seeds:
        return text
    if cell.std is not None:
        text += f" ± {format_number(cell.std)}"
    return f"{text} (n = {cell.num_seeds})"


def format_beside_default(text: str, difference: float | None) -> str:
    """Return the text with the difference to the default row in brackets."""
    if difference is None:
        return text
    return f"{text} [{format_number(difference, sign=True)}]"


def header_texts(comparison: Comparison) -> list[str]:
    """Return the heads of the table's columns.

    They are the axis and, for each column, the paper's numbers; where we fill the
    column also ours and the difference.
    """
    texts = [comparison.paper.axis]
    for name, column in comparison.paper.columns.items():
        texts.append(f"{column.title}, {column.unit}: paper")
        if name in comparison.our_columns:
            texts += ["ours", "ours - paper"]
    return texts


def row_texts(comparison: Comparison, row: TableRow) -> list[str]:
    """Return one row of the table, in the order of `header_texts`."""
    texts = [row.label]
    for name in comparison.paper.columns:
        texts += _value_texts(comparison, row, name)
    return texts


def _value_texts(comparison: Comparison, row: TableRow, column: str) -> list[str]:
    cell = row.cells[column]
    texts = [format_beside_default(format_number(cell.paper), cell.paper_minus_default)]
    if column in comparison.our_columns:
        texts += [
            format_beside_default(format_ours(cell), cell.minus_default),
            format_number(cell.minus_paper, sign=True),
        ]
    return texts


def legend_text(comparison: Comparison) -> str:
    """Say how the numbers of the table are to be read."""
    text = "Ours: mean ± standard deviation over n seeds."
    if comparison.paper.default is not None:
        text += (
            " In square brackets: the difference to the default row,"
            f" {comparison.paper.default}."
        )
    return text


def describe_correlation(
    comparison: Comparison, column: str, correlation: Correlation
) -> str:
    """Return one column's rank correlation, or why there is none."""
    title = comparison.paper.columns[column].title
    count = correlation.num_rows
    rows = "1 row" if count == 1 else f"{count} rows"
    if correlation.rho is not None:
        return f"{title}: {correlation.rho:+.2f} ({rows})"
    text = f"{title}: none of {rows}"
    if count < MIN_RANKED_ROWS:
        text += f", {MIN_RANKED_ROWS} are needed"
    return text


def describe_correlations(comparison: Comparison) -> str:
    """Return Spearman's rank correlation of each column in one sentence."""
    texts = [
        describe_correlation(comparison, column, correlation)
        for column, correlation in comparison.correlations.items()
    ]
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
    tables = [_column_table(comparison, name) for name in paper.columns]
    return Group(
        Text(title, style="italic"),
        Columns(tables, padding=(0, 3)),
        Text(comparison.headline),
        Text(legend_text(comparison)),
    )


def _column_table(comparison: Comparison, name: str) -> Table:
    column = comparison.paper.columns[name]
    table = _light_table(escape(f"{column.title}, {column.unit}"))
    table.add_column(escape(comparison.paper.axis))
    heads = ["paper"]
    if name in comparison.our_columns:
        heads += ["ours", "ours - paper"]
    for head in heads:
        table.add_column(head, justify="right", no_wrap=head != "ours - paper")
    for row in comparison.rows:
        texts = [row.label, *_value_texts(comparison, row, name)]
        table.add_row(*map(escape, texts), style="bold" if row.is_default else None)
    return table


def _light_table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )


def claims_table(comparison: Comparison) -> Table:
    """Draw a line for each claim: verdict, claim and reason."""
    table = Table(title="Claims", title_justify="left", show_lines=True)
    for name in ("verdict", "the paper's claim", "our rows"):
        table.add_column(name, no_wrap=name == "verdict")
    for judged in comparison.claims:
        style = STYLES[judged.verdict]
        table.add_row(
            f"[{style}]{judged.verdict}[/]",
            escape(judged.claim.says),
            escape(judged.reason),
        )
    return table


def summary_table(comparisons: list[Comparison]) -> Table:
    """Draw a line for each experiment; the table fits into 80 columns."""
    table = _light_table("Experiments")
    for name in ("experiment", "in the paper", "scale"):
        table.add_column(name, no_wrap=True)
    table.add_column("results", justify="right", no_wrap=True)
    for verdict in STYLES:
        table.add_column(verdict, justify="right")
    for comparison in comparisons:
        counts = [str(comparison.verdict_counts[verdict]) for verdict in STYLES]
        done = f"{comparison.done} of {comparison.expected}"
        # "Table 7 (ImageNet-1K columns)" would not fit.
        number = re.split(r",| \(", comparison.paper.paper)[0]
        table.add_row(comparison.slug, number, comparison.scale, done, *counts)
    return table


def markdown_table(comparison: Comparison) -> str:
    """Return the table as Markdown, the default row in bold."""
    names = header_texts(comparison)
    lines = [_markdown_line(names)]
    lines.append(_markdown_line(["---", *["---:"] * (len(names) - 1)]))
    for row in comparison.rows:
        texts = row_texts(comparison, row)
        if row.is_default:
            texts = [text if text == NO_VALUE else f"**{text}**" for text in texts]
        lines.append(_markdown_line(texts))
    return "\n".join(lines)


def _markdown_line(texts: list[str]) -> str:
    # a pipe within a name would end the column
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def experiment_readme(paper: Paper, sections: list[Section]) -> str:
    """Return the text of experiments/<slug>/README.md: a section for each scale."""
    parts = [
        f"# {paper.title} ({paper.paper})",
        paper.question,
        f"Paper: {paper.source}. {_sentence(paper.protocol)}",
    ]
    if paper.note:
        parts.append(f"Note: {_sentence(paper.note)}")
    for section in sections:
        parts += _scale_parts(section)
    return "\n\n".join(parts) + "\n"


def _scale_parts(section: Section) -> list[str]:
    comparison = section.comparison
    parts = [
        f"## Scale `{comparison.scale}`",
        comparison.headline,
        f"```bash\n{section.command}\n```",
    ]
    if section.cost:
        parts.append(f"Cost: {_sentence(section.cost)}")
    parts += [
        markdown_table(comparison),
        f"{legend_text(comparison)} {describe_correlations(comparison)}",
    ]
    if section.figure:
        title = comparison.paper.title
        parts.append(f"![{title}: the paper's numbers and ours]({section.figure})")
    if comparison.claims:
        lines = [
            f"- **{judged.verdict}** {MARKS[judged.verdict]} {judged.claim.says}"
            f" {judged.reason}"
            for judged in comparison.claims
        ]
        parts += ["### The paper's claims", "\n".join(lines)]
    differences = [f"- {line}" for line in comparison.protocol_differences]
    parts += [
        "### What differs from the paper",
        "\n".join(differences) or "Nothing: like for like.",
    ]
    return parts


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."
