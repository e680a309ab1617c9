"""All experiments beside the paper on one self-contained page."""

import base64
from pathlib import Path
from typing import Any

from markupsafe import Markup

from unmask.reports.paper.comparison import Comparison, Section
from unmask.reports.paper.figures import figure_svg
from unmask.reports.paper.tables import correlations, legend, number, ours
from unmask.storage.atomic import write_text

TONES = {"holds": "good", "does not hold": "bad", "cannot tell": "open"}


def write_paper_page(
    path: Path, sections: list[Section], versions: str, sheet: bytes | None = None
) -> Path:
    """`sheet`: the PNG of `ratio_sheet`, three ratios; `versions`: torch 2.11.0, timm 1.0.26 and the like."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, paper_page(sections, versions, sheet))
    return path


def paper_page(
    sections: list[Section], versions: str, sheet: bytes | None = None
) -> str:
    """The page's text; the same for the same content."""
    import jinja2  # takes a second that other commands do without

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    contents = [section.content for section in sections]
    return environment.get_template("paper.html.j2").render(
        sections=[_section(section) for section in sections],
        totals=_totals(contents),
        versions=versions,
        sheet=base64.b64encode(sheet).decode() if sheet else None,
        tones=TONES,
    )


def _totals(contents: list[Comparison]) -> list[dict[str, str]]:
    """The numbers on top: results, and claims by verdict."""
    counts = {
        verdict: sum(content.counts[verdict] for content in contents)
        for verdict in TONES
    }
    done, expected = (
        sum(getattr(content, key) for content in contents)
        for key in ("done", "expected")
    )
    names = {
        "holds": "claims hold",
        "does not hold": "claims do not hold",
        "cannot tell": "claims cannot be told",
    }
    return [{"tone": "", "value": f"{done:,} / {expected:,}", "name": "results"}] + [
        {"tone": tone, "value": str(counts[verdict]), "name": names[verdict]}
        for verdict, tone in TONES.items()
    ]


def _section(section: Section) -> dict[str, Any]:
    content = section.content
    svg = figure_svg(content, themed=True)
    return {
        "id": f"{content.slug}-{content.scale}",
        "content": content,
        "paper": content.paper,
        "counts": content.counts,
        "command": section.command,
        "cost": section.cost,
        "svg": Markup(svg) if svg else None,
        "columns": _columns(content),
        "rows": _rows(content),
        "legend": legend(content),
        "correlations": correlations(content) if content.done else "",
        "share": 100 * content.done / max(1, content.expected),
    }


def _columns(content: Comparison) -> list[dict[str, Any]]:
    """Heads of the table, each with how many columns stand under it."""
    return [
        {"title": column.title, "unit": column.unit, "ours": name in content.filled}
        for name, column in content.paper.columns.items()
    ]


def _rows(content: Comparison) -> list[dict[str, Any]]:
    """Texts of the table: a value, and under it the difference to the default row."""
    rows = []
    for row in content.rows:
        cells = []
        for name in content.paper.columns:
            cell = row.cells[name]
            cells.append((number(cell.paper), _under(cell.paper_to_default)))
            if name in content.filled:
                cells += [
                    (ours(cell), _under(cell.to_default)),
                    (number(cell.to_paper, sign=True), ""),
                ]
        rows.append({"label": row.label, "default": row.is_default, "cells": cells})
    return rows


def _under(difference: float | None) -> str:
    return "" if difference is None else number(difference, sign=True)
