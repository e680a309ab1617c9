"""Write the files of a report, and the results that are kept in experiments/."""

import io
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

from unmask.commands.reconstruct import load_autoencoder
from unmask.config.checks import ConfigError
from unmask.config.experiments import EXPERIMENTS
from unmask.reconstructions import ratio_sheet
from unmask.reports.paper.figures import figure_svg, write_figures
from unmask.reports.paper.findings import Finding, kept_results_path
from unmask.reports.paper.page import write_paper_page
from unmask.reports.paper.result_rows import write_rows
from unmask.reports.paper.tables import experiment_readme
from unmask.storage import checkpoints
from unmask.storage.atomic import write_text
from unmask.training import build

SHEET_IMAGES = 6
# the packages whose versions the page states
PACKAGES = ("torch", "lightning", "timm")


def ratio_sheet_png(runs_dir: str, findings: list[Finding]) -> bytes | None:
    """Draw the reconstructions of one model at three mask ratios, as a PNG.

    The model is the default row's pretraining of the last finding that has one in the
    ledger; return None where none has.
    """
    for finding in reversed(findings):
        default = finding.section.comparison.paper.default
        fingerprints = [
            row.pretrain for row in finding.rows if row.row == default and row.pretrain
        ]
        for fingerprint in fingerprints:
            folder = Path(runs_dir) / "pretrain" / fingerprint / "checkpoints"
            checkpoint = checkpoints.newest(folder)
            if not checkpoint:
                continue
            try:
                return _draw_ratio_sheet(checkpoint)
            except (ConfigError, ValueError, OSError):
                # The checkpoint is damaged or of another version, or its images are
                # gone: the page does without the pictures rather than fail.
                continue
    return None


def _draw_ratio_sheet(checkpoint: Path) -> bytes:
    loaded = load_autoencoder(checkpoint)
    image_format = build.build_format(loaded.config)
    sheet = ratio_sheet(
        loaded.model,
        loaded.target,
        loaded.normalised_images(None, SHEET_IMAGES),
        image_format.mean,
        image_format.std,
    )
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()


def write_report(findings: list[Finding], out: Path, runs_dir: str) -> list[Path]:
    """Write index.html, <experiment>.md, csv/ and figures/ into `out`.

    Return the paths, index.html first.
    """
    out.mkdir(parents=True, exist_ok=True)
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    sections = [finding.section for finding in findings]
    sheet = ratio_sheet_png(runs_dir, findings)
    written = [write_paper_page(out / "index.html", sections, versions, sheet)]
    for finding in findings:
        comparison = finding.section.comparison
        path = out / "csv" / comparison.slug / f"{comparison.scale}.csv"
        write_rows(path, finding.rows, comparison.paper)
        written.append(path)
        written += write_figures(comparison, out / "figures")
    for slug, group in _by_experiment(findings):
        written.append(_write_readme(group, out / f"{slug}.md"))
    return written


def keep_results(findings: list[Finding]) -> list[Path]:
    """Write each experiment's results and README.md into experiments/<slug>/.

    The results are results/<scale>.csv and its figure; return all paths.
    """
    written = []
    for slug, group in _by_experiment(findings):
        shown = []
        for finding in group:
            comparison = finding.section.comparison
            path = kept_results_path(slug, comparison.scale)
            write_rows(path, finding.rows, comparison.paper)
            written.append(path)
            svg = figure_svg(comparison)
            figure = None
            if svg:
                figure = f"results/{comparison.scale}.svg"
                write_text(path.with_suffix(".svg"), svg)
                written.append(path.with_suffix(".svg"))
            section = replace(finding.section, figure=figure)
            shown.append(finding._replace(section=section))
        written.append(_write_readme(shown, EXPERIMENTS / slug / "README.md"))
    return written


def _by_experiment(findings: list[Finding]) -> Iterator[tuple[str, list[Finding]]]:
    """Yield each experiment with its findings, one for each scale."""
    # Findings come in the order of experiments, so that groupby meets each once.
    for slug, group in groupby(findings, key=lambda f: f.section.comparison.slug):
        yield slug, list(group)


def _write_readme(findings: list[Finding], path: Path) -> Path:
    sections = [finding.section for finding in findings]
    write_text(path, experiment_readme(sections[0].comparison.paper, sections))
    return path
