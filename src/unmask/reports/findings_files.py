"""The files of a report: the page, Markdown, CSV, figures; and what is kept beside the paper's numbers."""

from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

from unmask.durable import write_text
from unmask.reports.comparison_figures import figure_svg, write_figures
from unmask.reports.comparison_tables import experiment_readme
from unmask.reports.findings import Finding, kept_results
from unmask.reports.paper_page import write_paper_page
from unmask.reports.ratio_pictures import ratio_pictures
from unmask.reports.result_rows import write_rows
from unmask.runs.experiments import EXPERIMENTS

VERSIONS = ("torch", "lightning", "timm")


def write_report(found: list[Finding], out: Path, runs_dir: str) -> list[Path]:
    """index.html, <experiment>.md, csv/ and figures/ below `out`; their places, the page's first."""
    out.mkdir(parents=True, exist_ok=True)
    versions = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    sheet = ratio_pictures(runs_dir, found)
    written = [write_paper_page(out / "index.html", [finding.section for finding in found], versions, sheet)]
    for finding in found:
        content = finding.section.content
        path = out / "csv" / content.slug / f"{content.scale}.csv"
        write_rows(path, finding.rows, content.paper)
        written += [path, *write_figures(content, out / "figures")]
    return written + [_readme(slug, of_slug, out / f"{slug}.md") for slug, of_slug in _by_slug(found)]


def keep(found: list[Finding]) -> list[Path]:
    """results/<scale>.csv, the figure and README.md of every experiment that has results, beside its paper.yaml."""
    written = []
    for slug, of_slug in _by_slug(found):
        shown = []
        for finding in of_slug:
            content = finding.section.content
            path = kept_results(slug, content.scale)
            write_rows(path, finding.rows, content.paper)
            written.append(path)
            drawn = figure_svg(content)
            if drawn:
                written.append(path.with_suffix(".svg"))
                write_text(path.with_suffix(".svg"), drawn)
            figure = f"results/{content.scale}.svg" if drawn else None
            shown.append(finding._replace(section=replace(finding.section, figure=figure)))
        written.append(_readme(slug, shown, EXPERIMENTS / slug / "README.md"))
    return written


def _by_slug(found: list[Finding]) -> Iterable[tuple[str, list[Finding]]]:
    for slug, group in groupby(found, key=lambda finding: finding.section.content.slug):
        yield slug, list(group)


def _readme(slug: str, found: list[Finding], path: Path) -> Path:
    write_text(path, experiment_readme(found[0].section.content.paper, [finding.section for finding in found]))
    return path
