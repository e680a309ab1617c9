"""Print the reports of the GPU benchmark, and write them as a page."""

from collections.abc import Iterator, Sequence
from datetime import date

from rich.table import Table

from unmask.commands.bench.gpu.parts import PartResult
from unmask.commands.bench.measure import make_table


def console_lines(result: PartResult) -> Iterator[Table | str]:
    """Yield a part's tables and sentences for the terminal."""
    for report in result.reports:
        yield make_table(result.title, report.header, report.rows)
        yield from report.notes
    if result.fault:
        yield f"{result.title}: {result.fault}"


def page_text(
    results: Sequence[PartResult], machine: str, command: str, today: date
) -> str:
    """Return the page in Markdown; command: what was typed."""
    lines = [
        "# Speed on a GPU",
        "",
        f"Written by `{command}` on {today}: {machine}. [What is compared in"
        " speed.md](speed.md).",
        "",
    ]
    for result in results:
        lines += [f"## {result.title}", ""]
        for report in result.reports:
            lines += [*_markdown_table(report.header, report.rows), ""]
            for note in report.notes:
                lines += [note, ""]
        if result.fault:
            lines += [result.fault, ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]]
) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield "|" + "---|" * len(header)
    for row in rows:
        # a bar would end the cell
        cells = (cell.replace("|", "\\|") for cell in row)
        yield f"| {' | '.join(cells)} |"
