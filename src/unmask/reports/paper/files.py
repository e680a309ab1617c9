"""The files of a report: the page, Markdown, CSV, figures; and what is kept beside the paper's numbers."""

import io
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

from unmask.commands.reconstruct import load_autoencoder
from unmask.config.checks import ConfigError
from unmask.config.experiments import EXPERIMENTS
from unmask.reconstructions import ratio_sheet
from unmask.reports.paper.figures import figure_svg, write_figures
from unmask.reports.paper.findings import Finding, kept_results
from unmask.reports.paper.page import write_paper_page
from unmask.reports.paper.result_rows import write_rows
from unmask.reports.paper.tables import experiment_readme
from unmask.storage import checkpoints
from unmask.storage.atomic import write_text
from unmask.training import build

IMAGES = 6


def ratio_pictures(runs_dir: str, found: list[Finding]) -> bytes | None:
    """A PNG of the last listed scale's default pretraining that the ledger has; None where it has none."""
    for finding in reversed(found):
        default = finding.section.content.paper.default
        made = [
            row.pretrain for row in finding.rows if row.row == default and row.pretrain
        ]
        for fingerprint in made:
            checkpoint = checkpoints.newest(
                Path(runs_dir) / "pretrain" / fingerprint / "checkpoints"
            )
            if checkpoint:
                try:
                    return _sheet(checkpoint)
                # another version's, damaged, or its images are gone
                except (ConfigError, ValueError, OSError):
                    continue
    return None


def _sheet(checkpoint: Path) -> bytes:
    loaded = load_autoencoder(checkpoint)
    form = build.build_format(loaded.config)
    sheet = ratio_sheet(
        loaded.model,
        loaded.target,
        loaded.normalised(None, IMAGES),
        form.mean,
        form.std,
    )
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()


VERSIONS = ("torch", "lightning", "timm")


def write_report(found: list[Finding], out: Path, runs_dir: str) -> list[Path]:
    """index.html, <experiment>.md, csv/ and figures/ below `out`; their places, the page's first."""
    out.mkdir(parents=True, exist_ok=True)
    versions = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    sheet = ratio_pictures(runs_dir, found)
    written = [
        write_paper_page(
            out / "index.html", [finding.section for finding in found], versions, sheet
        )
    ]
    for finding in found:
        content = finding.section.content
        path = out / "csv" / content.slug / f"{content.scale}.csv"
        write_rows(path, finding.rows, content.paper)
        written += [path, *write_figures(content, out / "figures")]
    return written + [
        _readme(slug, of_slug, out / f"{slug}.md") for slug, of_slug in _by_slug(found)
    ]


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
            shown.append(
                finding._replace(section=replace(finding.section, figure=figure))
            )
        written.append(_readme(slug, shown, EXPERIMENTS / slug / "README.md"))
    return written


def _by_slug(found: list[Finding]) -> Iterable[tuple[str, list[Finding]]]:
    for slug, group in groupby(found, key=lambda finding: finding.section.content.slug):
        yield slug, list(group)


def _readme(slug: str, found: list[Finding], path: Path) -> Path:
    write_text(
        path,
        experiment_readme(
            found[0].section.content.paper, [finding.section for finding in found]
        ),
    )
    return path
