"""The page of all experiments beside the paper: one self-contained HTML file."""

import base64
from pathlib import Path
from typing import Any

from markupsafe import Markup

from unmask.reports.paper.comparison import Comparison, Section
from unmask.reports.paper.figures import figure_svg
from unmask.reports.paper.tables import (
    describe_correlations,
    format_number,
    format_ours,
)
from unmask.storage.atomic import write_text

# CSS classes of the verdicts
TONES = {"holds": "good", "does not hold": "bad", "cannot tell": "open"}
TOTAL_NAMES = {
    "holds": "claims hold",
    "does not hold": "claims do not hold",
    "cannot tell": "claims cannot be decided",
}


def write_paper_page(
    path: Path, sections: list[Section], versions: str, sheet: bytes | None = None
) -> Path:
    """Write the page of `render_paper_page`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render_paper_page(sections, versions, sheet))
    return path


def render_paper_page(
    sections: list[Section], versions: str, sheet: bytes | None = None
) -> str:
    """Return the page's HTML; the same sections give the same text.

    versions: of the packages, as "torch 2.11.0, timm 1.0.26".
    sheet: the PNG of `ratio_sheet`, with three mask ratios.
    """
    # Importing it takes a second, which other commands need not spend.
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html.j2").render(
        sections=[_section_content(section) for section in sections],
        totals=_totals([section.comparison for section in sections]),
        versions=versions,
        sheet=base64.b64encode(sheet).decode() if sheet else None,
        tones=TONES,
    )


def _totals(comparisons: list[Comparison]) -> list[dict[str, str]]:
    """Return the numbers on top of the page: results, and claims by verdict."""
    done = sum(comparison.done for comparison in comparisons)
    expected = sum(comparison.expected for comparison in comparisons)
    totals = [{"tone": "", "value": f"{done:,} / {expected:,}", "name": "results"}]
    for verdict, tone in TONES.items():
        count = sum(comparison.verdict_counts[verdict] for comparison in comparisons)
        name = TOTAL_NAMES[verdict]
        totals.append({"tone": tone, "value": str(count), "name": name})
    return totals


def _section_content(section: Section) -> dict[str, Any]:
    """Return what the template shows of one experiment at one scale."""
    comparison = section.comparison
    svg = figure_svg(comparison, themed=True)
    # Without results the sentence would say "none of 0 rows" for every column.
    correlations = describe_correlations(comparison) if comparison.done else ""
    return {
        "id": f"{comparison.slug}-{comparison.scale}",
        "comparison": comparison,
        "paper": comparison.paper,
        "counts": comparison.verdict_counts,
        "command": section.command,
        "cost": section.cost,
        "svg": Markup(svg) if svg else None,
        "columns": _column_heads(comparison),
        "rows": _rows(comparison),
        "correlations": correlations,
        "percent_done": 100 * comparison.done / max(1, comparison.expected),
    }


def _column_heads(comparison: Comparison) -> list[dict[str, Any]]:
    return [
        {
            "title": column.title,
            "unit": column.unit,
            "ours": name in comparison.our_columns,
        }
        for name, column in comparison.paper.columns.items()
    ]


def _rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return each row's cells as (value, difference to the default row)."""
    rows = []
    for row in comparison.rows:
        cells = []
        for name in comparison.paper.columns:
            cell = row.cells[name]
            cells.append((format_number(cell.paper), _signed(cell.paper_minus_default)))
            if name in comparison.our_columns:
                cells += [
                    (format_ours(cell), _signed(cell.minus_default)),
                    (format_number(cell.minus_paper, sign=True), ""),
                ]
        rows.append({"label": row.label, "default": row.is_default, "cells": cells})
    return rows


def _signed(difference: float | None) -> str:
    return "" if difference is None else format_number(difference, sign=True)
