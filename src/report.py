"""Report everything finished so far beside the paper. See --help."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra import initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from hydra_plugins.composition import Composer, hydra_errors_as_config_errors
from unmask.commands.cli import exit_on_user_error, mark_started, run_command
from unmask.config.arguments import Report, parse_arguments
from unmask.config.checks import ConfigError, check, fill_missing_roots
from unmask.config.experiments import CONF
from unmask.config.schema import Config

if TYPE_CHECKING:
    from unmask.reports.paper.comparison import Comparison, Finding

DEFAULTS = CONF / "report.yaml"


def run() -> None:
    """Write the report and print it; exits with 0 done, 1 error, 2 bad arguments."""
    mark_started()
    with exit_on_user_error():
        # not by hydra.main: to Hydra `experiment` and `scale` are groups of conf/
        merged = OmegaConf.merge(OmegaConf.load(DEFAULTS), typed_values())
        arguments = parse_arguments(Report, OmegaConf.to_container(merged))
        with initialize_config_dir(str(CONF), version_base="1.3"):
            findings, written = write(arguments)
    notes = [note for finding in findings for note in finding.notes]
    for note in dict.fromkeys(notes):
        print(f"note: {note}")
    comparisons = [finding.comparison for finding in findings]
    print_comparisons(comparisons, arguments, written)


def write(arguments: Report) -> tuple[list["Finding"], list[Path]]:
    """Return what was found, and the files that were written, the page first."""
    # pandas and matplotlib take seconds
    from unmask.reports.paper.files import keep_results, write_report
    from unmask.reports.paper.findings import collect_findings

    composer = Composer()

    def compose_config(overrides: Sequence[str]) -> Config:
        return check(fill_missing_roots(composer(overrides)))

    findings = collect_findings(arguments, compose_config)
    written = write_report(findings, report_folder(arguments), arguments.runs_dir)
    if arguments.keep:
        # an experiment's README shows all its scales, whichever was asked for
        all_scales = arguments.model_copy(update={"scale": None})
        keep_results(
            collect_findings(all_scales, compose_config)
            if arguments.scale
            else findings
        )
    return findings, written


def report_folder(arguments: Report) -> Path:
    """Return where the report goes.

    One table has a folder of its own: it does not overwrite the page of all.
    """
    if arguments.out:
        return Path(arguments.out)
    folder = Path(arguments.runs_dir) / "report"
    return folder if arguments.experiment == "all" else folder / arguments.experiment


def typed_values() -> DictConfig:
    """Return the key=value arguments. Raises ConfigError for any other."""
    for argument in sys.argv[1:]:
        if "=" not in argument:
            raise ConfigError(
                f"{argument}: write key=value, such as experiment=decoder_depth; --help"
                " lists the keys"
            )
    with hydra_errors_as_config_errors():
        return OmegaConf.from_dotlist(sys.argv[1:])


def print_comparisons(
    comparisons: list["Comparison"], arguments: Report, written: list[Path]
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
        f"The page with tables, figures and verdicts: {written[0].resolve()}",
        soft_wrap=True,
    )


if __name__ == "__main__":
    run_command(run, Report.model_fields)
