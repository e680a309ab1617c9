"""Everything finished so far beside the paper: page, Markdown, CSV, figures. See --help."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra import initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from hydra_plugins.composition import Composer
from unmask.commands.cli import fail, guarded, mark_started, user_message
from unmask.config.arguments import Report, arguments
from unmask.config.checks import ConfigError, check, elsewhere
from unmask.config.experiments import CONF
from unmask.config.schema import Config
from unmask.stages.ledger import LedgerError

if TYPE_CHECKING:
    from unmask.reports.paper.comparison import Comparison

DEFAULTS = CONF / "report.yaml"


def run() -> None:
    """Exits with 0 done, 1 error, 2 bad arguments."""
    if {"--help", "-h"} & set(sys.argv):
        print(DEFAULTS.read_text(), end="")
        return
    mark_started()
    try:
        # not hydra.main: to Hydra `experiment` and `scale` are groups of conf/
        given = arguments(
            Report,
            OmegaConf.to_container(
                OmegaConf.merge(OmegaConf.load(DEFAULTS), told_by_user())
            ),
        )
        with initialize_config_dir(str(CONF), version_base="1.3"):
            from unmask.reports.paper.files import keep, write_report
            from unmask.reports.paper.findings import findings

            composer = Composer()

            def composed(overrides: Sequence[str]) -> Config:
                return check(elsewhere(composer(overrides)))

            found = findings(given, composed)
            written = write_report(found, folder(given), given.runs_dir)
            if given.keep:  # an experiment's README tells of all its scales
                keep(
                    findings(given.model_copy(update={"scale": None}), composed)
                    if given.scale
                    else found
                )
    except ConfigError as error:
        fail(str(error), 2)
    except OSError as error:
        fail(user_message(error), 1)
    except (ValueError, LedgerError) as error:
        fail(user_message(error), 1)
    for note in dict.fromkeys(note for finding in found for note in finding.notes):
        print(f"note: {note}")
    say([finding.section.content for finding in found], given, written)


def folder(given: Report) -> Path:
    """Where it goes: tables of their own do not overwrite the page of all."""
    everything = Path(given.runs_dir) / "report"
    return (
        Path(given.out)
        if given.out
        else everything
        if given.experiment == "all"
        else everything / given.experiment
    )


def told_by_user() -> DictConfig:
    """key=value arguments. Raises ConfigError for what is none."""
    if strange := [argument for argument in sys.argv[1:] if "=" not in argument]:
        raise ConfigError(
            f"{strange[0]}: write key=value, such as experiment=decoder_depth; --help"
            " lists the keys"
        )
    try:
        return OmegaConf.from_dotlist(sys.argv[1:])
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from None


def say(found: list["Comparison"], given: Report, written: list[Path]) -> None:
    """One experiment: its table and claims; several: a line each. Then where the page lies."""
    from unmask.reports.paper.tables import claims_table, summary_table, terminal_table

    console = Console()
    if not found:
        wanted = f"experiment={given.experiment}" + (
            f" scale={given.scale}" if given.scale else ""
        )
        console.print(
            f"no results of {wanted} in {given.runs_dir}: python src/train.py -m"
            f" {wanted} makes them; those of a sweep that was given more are found by"
            " 'overrides=[...]', seeds=[...]",
            markup=False,
        )
        return
    if len(found) == 1:
        console.print(terminal_table(found[0]))
        console.print(claims_table(found[0]))
    else:
        console.print(summary_table(found))
    console.print(
        f"The page with tables, figures and verdicts: {written[0].resolve()}",
        soft_wrap=True,
    )


if __name__ == "__main__":
    guarded(run, Report.model_fields)
