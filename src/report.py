"""Everything finished so far beside the paper: page, Markdown, CSV, figures. See --help."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra import compose
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from train import plain
from unmask.runs.arguments import Report, arguments
from unmask.runs.checks import ConfigError, check
from unmask.runs.commands import enter, fail, guarded, told
from unmask.runs.schema import Config

if TYPE_CHECKING:
    from unmask.reports.comparison import Comparison

CONF = Path(__file__).parent.parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="report")
def run(cfg: DictConfig) -> None:
    """Exits with 0 done, 1 error, 2 bad arguments."""
    enter()
    try:
        given = arguments(Report, OmegaConf.to_container(cfg, resolve=True))
        from unmask.reports.findings import findings
        from unmask.reports.findings_files import keep, write_report

        if given.keep and given.scale:
            raise ConfigError(f"scale={given.scale}: keep=true writes what is known of all scales; leave scale=null")
        found = findings(given, composed)
        written = [*write_report(found, Path(given.out), given.runs_dir), *(keep(found) if given.keep else [])]
    except ConfigError as error:
        fail(str(error), 2)
    except (ValueError, OSError) as error:
        fail(told(error), 1)
    say([finding.section.content for finding in found], given, written)


def composed(overrides: Sequence[str]) -> Config:
    """A cell's checked config."""
    return check(plain(compose("config", overrides=list(overrides))))


def say(found: list["Comparison"], given: Report, written: list[Path]) -> None:
    """One experiment: its table and claims; several: a line each. Then where the page lies."""
    from unmask.reports.comparison_tables import claims_table, summary_table, terminal_table

    console = Console()
    if not found:
        wanted = f"experiment={given.experiment}" + (f" scale={given.scale}" if given.scale else "")
        console.print(f"no results of {wanted} in {given.runs_dir}; python src/train.py -m {wanted} makes them")
        return
    if len(found) == 1:
        console.print(terminal_table(found[0]))
        console.print(claims_table(found[0]))
    else:
        console.print(summary_table(found))
    console.print(f"The page with tables, figures and verdicts: {written[0].resolve()}", soft_wrap=True)


if __name__ == "__main__":
    guarded(run, Report.model_fields)
