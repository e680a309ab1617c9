"""Write the files of a report, and the results that are kept in experiments/."""

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

from unmask.config.checks import ConfigError
from unmask.config.experiments import experiment_folder
from unmask.reports.paper.arguments import Report
from unmask.reports.paper.comparison import Finding
from unmask.reports.paper.figures import figure_svg, write_figures
from unmask.reports.paper.findings import kept_results_path
from unmask.reports.paper.known import PAGE, render_known_page
from unmask.reports.paper.latex import latex_table
from unmask.reports.paper.page import render_paper_page
from unmask.reports.paper.result_rows import write_rows
from unmask.reports.paper.tables import experiment_readme
from unmask.reports.paper.variance import Variances
from unmask.storage.atomic import write_text

SHEET_IMAGES = 6
# the packages whose versions the page states
PACKAGES = ("torch", "lightning", "timm")


def ratio_sheet_png(runs_dir: str, findings: list[Finding]) -> bytes | None:
    """Draw the reconstructions of one model at three mask ratios, as a PNG.

    The model is the default row's pretraining of the last finding that has one in the
    ledger; return None where none has.
    """
    fingerprints = [
        row.pretrain
        for finding in reversed(findings)
        for row in finding.rows
        if row.row == finding.comparison.paper.default and row.pretrain
    ]
    for fingerprint in fingerprints:
        folder = Path(runs_dir) / "pretrain" / fingerprint / "checkpoints"
        # The checkpoint may be damaged or of another version, or its images gone: the
        # page does without the pictures rather than fail.
        with suppress(ConfigError, ValueError, OSError):
            if folder.is_dir() and (sheet := _draw_ratio_sheet(folder)):
                return sheet
    return None


def _draw_ratio_sheet(folder: Path) -> bytes | None:
    # torch and Lightning take seconds, which other reports need not wait for
    from unmask.commands.reconstruct.autoencoder import load_autoencoder
    from unmask.reconstructions import ratio_sheet
    from unmask.storage import checkpoints
    from unmask.training import build

    checkpoint = checkpoints.newest(folder)
    if checkpoint is None:
        return None
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


def write_report(
    findings: list[Finding], out: Path, args: Report, variances: Sequence[Variances]
) -> tuple[Path, list[Path]]:
    """Write index.html, known.html, <experiment>.md, csv/, and what args.format names.

    variances: for known.html. Return index.html, and the paths of figures and LaTeX
    tables.
    """
    out.mkdir(parents=True, exist_ok=True)
    for_papers = []
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    sheet = ratio_sheet_png(args.runs_dir, findings)
    page = out / "index.html"
    write_text(page, render_paper_page(findings, versions, sheet, args.anytime))
    write_text(out / PAGE, render_known_page(findings, page.name, variances))
    for finding in findings:
        comparison = finding.comparison
        path = out / "csv" / comparison.slug / f"{comparison.scale}.csv"
        write_rows(path, finding.rows, comparison.paper)
        drawn = [form for form in args.format if form != "latex"]
        for_papers += write_figures(comparison, out / "figures", drawn)
        if "latex" in args.format:
            path = out / "latex" / f"{comparison.slug}-{comparison.scale}.tex"
            path.parent.mkdir(exist_ok=True)
            write_text(path, latex_table(comparison))
            for_papers.append(path)
    for slug, group in _by_experiment(findings):
        write_text(out / f"{slug}.md", experiment_readme(group))
    return page, for_papers


def keep_results(findings: list[Finding]) -> None:
    """Write each experiment's results and README.md into experiments/<slug>/.

    The results are results/<scale>.csv and its figure. A table of which only one row
    has results, such as the default that others share, is left out with a note.
    """
    for slug, group in _by_experiment(filter(_is_worth_keeping, findings)):
        figures = []
        for finding in group:
            comparison = finding.comparison
            path = kept_results_path(slug, comparison.scale)
            write_rows(path, finding.rows, comparison.paper)
            if svg := figure_svg(comparison):
                figures.append(comparison.scale)
                write_text(path.with_suffix(".svg"), svg)
        readme = experiment_readme(group, figures)
        write_text(experiment_folder(slug) / "README.md", readme)


def _is_worth_keeping(finding: Finding) -> bool:
    """Return whether a table has begun: a row of it alone, or kept before."""
    comparison = finding.comparison
    begun = {row.row for row in finding.rows}
    if len(begun) > 1 or len(comparison.paper.rows) == 1:
        return True
    if kept_results_path(comparison.slug, comparison.scale).exists():
        return True
    print(
        f"note: {comparison.slug} at scale {comparison.scale} is not kept: only one of"
        f" its rows has results ({', '.join(begun) or 'none'})"
    )
    return False


def _by_experiment(findings: Iterable[Finding]) -> Iterator[tuple[str, list[Finding]]]:
    """Yield each experiment with its findings, one for each scale."""
    # Findings come in the order of experiments, so that groupby meets each once.
    for slug, group in groupby(findings, key=lambda f: f.comparison.slug):
        yield slug, list(group)
