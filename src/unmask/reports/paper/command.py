"""Write the report and print it, for src/report.py."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console

from unmask.commands.composition import Composer
from unmask.config.checks import check, fill_missing_roots
from unmask.config.schema import Config
from unmask.reports.paper.arguments import Report

if TYPE_CHECKING:
    from unmask.reports.paper.collect import Compose
    from unmask.reports.paper.comparison import Comparison, Finding
    from unmask.reports.paper.variance import Variances


def run(arguments: Report) -> list["Finding"]:
    """Write the report, print it, and return what it says."""
    findings, page, for_papers, variances = write(arguments)
    notes = [note for finding in findings for note in finding.notes]
    for note in dict.fromkeys(notes):
        print(f"note: {note}")
    comparisons = [finding.comparison for finding in findings]
    print_comparisons(comparisons, arguments, page)
    if variances:
        print_variances(variances, arguments)
    # few: of one table, and asked for
    if arguments.experiment != "all" and findings:
        for path in for_papers:
            print(path.resolve())
    return findings


class Written(NamedTuple):
    """What was found, the page that was written, files for papers, and variances."""

    findings: list["Finding"]
    page: Path
    for_papers: list[Path]
    variances: list["Variances"]


def write(arguments: Report) -> Written:
    """Write the report; keep=true also writes into experiments/."""
    # pandas and matplotlib take seconds
    from unmask.reports.paper.files import keep_results, write_report
    from unmask.reports.paper.findings import collect_findings, collect_to_keep

    composer = Composer()

    def compose_config(overrides: Sequence[str]) -> Config:
        return check(fill_missing_roots(composer(overrides)))

    findings = collect_findings(arguments, compose_config)
    variances = []
    if arguments.variance and findings:
        variances = _variances(findings, arguments, compose_config)
    page, for_papers = write_report(
        findings, report_folder(arguments), arguments, variances
    )
    if arguments.keep:
        keep_results(
            collect_to_keep(arguments, compose_config) if arguments.scale else findings
        )
    return Written(findings, page, for_papers, variances)


def _variances(
    findings: list["Finding"], arguments: Report, compose: "Compose"
) -> list["Variances"]:
    """Return where the variance of each measure comes from, at each scale."""
    from unmask.reports.paper.variance import find_variances
    from unmask.stages.records import read_ledger

    scales = dict.fromkeys(finding.comparison.scale for finding in findings)
    configs = {
        scale: compose([f"scale={scale}", *arguments.overrides]) for scale in scales
    }
    return list(find_variances(findings, read_ledger(arguments.runs_dir), configs))


def print_variances(variances: list["Variances"], arguments: Report) -> None:
    """Print where the variance of each measure comes from, and write variance.csv."""
    from unmask.reports.paper.variance_table import variance_tables, write_variances

    path = report_folder(arguments) / "variance.csv"
    write_variances(variances, path)
    Console().print(variance_tables(variances))
    print(path.resolve())


def report_folder(arguments: Report) -> Path:
    """Return where the report goes.

    One table has a folder of its own: it does not overwrite the page of all.
    """
    if arguments.out:
        return Path(arguments.out)
    folder = Path(arguments.runs_dir) / "report"
    return folder if arguments.experiment == "all" else folder / arguments.experiment


def print_comparisons(
    comparisons: list["Comparison"], arguments: Report, page: Path
) -> None:
    """Print table and claims of one experiment, or a line for each of several."""
    from unmask.reports.paper.tables import claims_table, summary_table, terminal_table

    console = Console()
    if not comparisons:
        wanted = f"experiment={arguments.experiment}"
        if arguments.scale:
            wanted += f" scale={arguments.scale}"
        console.print(
            f"no results of {wanted} in {arguments.runs_dir}: python src/train.py -m"
            f" {wanted} makes them; results of a sweep with more overrides are found"
            " with 'overrides=[...]' and seeds=[...]",
            markup=False,
        )
        return
    if len(comparisons) == 1:
        console.print(terminal_table(comparisons[0]))
        console.print(claims_table(comparisons[0]))
    else:
        console.print(summary_table(comparisons))
    console.print(
        f"The page with tables, figures and verdicts: {page.resolve()}",
        soft_wrap=True,
    )
