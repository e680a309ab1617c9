"""A comparison as text: for the terminal, and in Markdown for experiments/<slug>/README.md."""

import re

from rich.box import SIMPLE_HEAD
from rich.columns import Columns
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from unmask.config.experiments import Paper
from unmask.reports.paper.bootstrap import FEWEST_RANKED
from unmask.reports.paper.comparison import Cell, Comparison, Correlation, Row, Section

NONE = "-"
MARKS = {"holds": "✔", "does not hold": "✘", "cannot tell": "?"}
STYLES = {"holds": "green", "does not hold": "red", "cannot tell": "yellow"}


def number(value: float | None, sign: bool = False) -> str:
    """One decimal, as the paper prints."""
    if value is None:
        return NONE
    text = f"{value:+,.1f}" if sign else f"{value:,.1f}"
    return (
        text.replace("-0.0", "+0.0")
        if sign and float(text.replace(",", "")) == 0
        else text
    )


def ours(cell: Cell) -> str:
    """Mean ± standard deviation (number of seeds); what is counted stands alone."""
    if cell.mean is None:
        return NONE
    if not cell.n:
        return number(cell.mean)
    return (
        number(cell.mean)
        + ("" if cell.spread is None else f" ± {number(cell.spread)}")
        + f" (n = {cell.n})"
    )


def beside_default(text: str, difference: float | None) -> str:
    return text if difference is None else f"{text} [{number(difference, sign=True)}]"


def header(content: Comparison) -> list[str]:
    """The axis, then for each column the paper's, and where we fill it ours and the difference."""
    names = [content.paper.axis]
    for name, column in content.paper.columns.items():
        title = f"{column.title}, {column.unit}"
        names += (
            [f"{title}: paper", "ours", "ours - paper"]
            if name in content.filled
            else [f"{title}: paper"]
        )
    return names


def body(content: Comparison, row: Row) -> list[str]:
    """One row of the table, in the order of the header."""
    texts = [row.label]
    for name in content.paper.columns:
        texts += _values(content, row, name)
    return texts


def _values(content: Comparison, row: Row, name: str) -> list[str]:
    """The paper's number in a column, and where we fill it ours and the difference."""
    cell = row.cells[name]
    texts = [beside_default(number(cell.paper), cell.paper_to_default)]
    if name in content.filled:
        texts += [
            beside_default(ours(cell), cell.to_default),
            number(cell.to_paper, sign=True),
        ]
    return texts


def legend(content: Comparison) -> str:
    """How the numbers of the table are to be read."""
    text = "Ours: mean ± standard deviation over n seeds."
    if content.paper.default is not None:
        text += (
            " In square brackets: the difference to the default row,"
            f" {content.paper.default}."
        )
    return text


def correlation(content: Comparison, name: str, found: Correlation) -> str:
    title, rows = (
        content.paper.columns[name].title,
        f"{found.n} row{'s' * (found.n != 1)}",
    )
    if found.rho is None:
        return f"{title}: none of {rows}" + (
            f", {FEWEST_RANKED} are needed" if found.n < FEWEST_RANKED else ""
        )
    return f"{title}: {found.rho:+.2f} ({rows})"


def correlations(content: Comparison) -> str:
    """Spearman's, for each column of ours."""
    found = [
        correlation(content, name, value)
        for name, value in content.correlations.items()
    ]
    return "Rank correlation of our rows with the paper's: " + "; ".join(found) + "."


def terminal_table(content: Comparison) -> Group:
    """The numbers, a small table for each column of the paper: side by side where the terminal is wide enough."""
    title = (
        f"{content.paper.title} ({content.paper.paper}), {content.done} of"
        f" {content.expected} results"
    )
    columns = Columns(
        [_column_table(content, name) for name in content.paper.columns], padding=(0, 3)
    )
    return Group(
        Text(title, style="italic"),
        columns,
        Text(content.headline),
        Text(legend(content)),
    )


def _column_table(content: Comparison, name: str) -> Table:
    column, filled = content.paper.columns[name], name in content.filled
    table = Table(
        title=escape(f"{column.title}, {column.unit}"),
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column(escape(content.paper.axis))
    for head in ("paper", "ours", "ours - paper")[: 3 if filled else 1]:
        table.add_column(head, justify="right", no_wrap=head != "ours - paper")
    for row in content.rows:
        texts = [row.label, *_values(content, row, name)]
        table.add_row(*map(escape, texts), style="bold" if row.is_default else None)
    return table


def claims_table(content: Comparison) -> Table:
    """Verdict, claim and why, a line each."""
    table = Table(title="Claims", title_justify="left", show_lines=True)
    for name in ("verdict", "the paper's claim", "our rows"):
        table.add_column(name, no_wrap=name == "verdict")
    for judged in content.claims:
        style = STYLES[judged.verdict]
        table.add_row(
            f"[{style}]{judged.verdict}[/]",
            escape(judged.claim.says),
            escape(judged.why),
        )
    return table


def summary_table(contents: list[Comparison]) -> Table:
    """All experiments, a line each, whole in 80 columns."""
    table = Table(
        title="Experiments",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for name in ("experiment", "in the paper", "scale", "results", *STYLES):
        words = name in ("experiment", "in the paper", "scale")
        table.add_column(
            name,
            justify="left" if words else "right",
            no_wrap=words or name == "results",
        )
    for content in contents:
        counts = [str(content.counts[verdict]) for verdict in STYLES]
        done = f"{content.done} of {content.expected}"
        # Table 7, of whose columns some are ours
        place = re.split(r",| \(", content.paper.paper)[0]
        table.add_row(content.slug, place, content.scale, done, *counts)
    return table


def markdown_table(content: Comparison) -> str:
    """Pipes in names are escaped; the default row is bold."""
    names = header(content)
    lines = [_line(names), _line(["---", *["---:"] * (len(names) - 1)])]
    for row in content.rows:
        texts = body(content, row)
        lines.append(
            _line(
                [
                    f"**{text}**" if row.is_default and text != NONE else text
                    for text in texts
                ]
            )
        )
    return "\n".join(lines)


def _line(texts: list[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def experiment_readme(paper: Paper, sections: list[Section]) -> str:
    """The whole experiments/<slug>/README.md: the question once, then a section for each scale."""
    parts = [
        f"# {paper.title} ({paper.paper})",
        paper.question,
        f"Paper: {paper.source}. {_sentence(paper.protocol)}",
    ]
    parts += [f"Note: {_sentence(paper.note)}"] if paper.note else []
    for section in sections:
        parts += _scale(section)
    return "\n\n".join(parts) + "\n"


def _scale(section: Section) -> list[str]:
    content = section.content
    parts = [
        f"## Scale `{content.scale}`",
        content.headline,
        f"```bash\n{section.command}\n```",
    ]
    parts += [f"Cost: {_sentence(section.cost)}"] if section.cost else []
    parts += [markdown_table(content), f"{legend(content)} {correlations(content)}"]
    if section.figure:
        parts.append(
            f"![{content.paper.title}: the paper's numbers and ours]({section.figure})"
        )
    if content.claims:
        lines = [
            f"- **{judged.verdict}** {MARKS[judged.verdict]} {judged.claim.says}"
            f" {judged.why}"
            for judged in content.claims
        ]
        parts += ["### The paper's claims", "\n".join(lines)]
    differs = [f"- {difference}" for difference in content.differences]
    parts += [
        "### What differs from the paper",
        "\n".join(differs) or "Nothing: like for like.",
    ]
    return parts


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."
