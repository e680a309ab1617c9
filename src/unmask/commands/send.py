"""Send finished stages to W&B: runs that were offline, or rows that did not arrive."""

import warnings
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from unmask.config.checks import ConfigError, refuse_secrets
from unmask.config.groups import WandbName, check_wandb_name
from unmask.config.section import Positive, Section
from unmask.config.stage_paths import StagePath
from unmask.dashboards.orders import Job, WandbJob
from unmask.dashboards.process import Dashboards
from unmask.dashboards.wandb_run import CONNECT_SECONDS
from unmask.stages.ledger import read_result

# what a slow disk or processor may take beside the network
START_SECONDS = 30.0


class Send(Section):
    folders: Annotated[list[StagePath], Field(min_length=1)]
    project: WandbName | None
    entity: WandbName | None
    weights: bool
    finish_seconds: Positive


def run(arguments: Send) -> None:
    """Send what W&B lacks of each folder; what others start from comes first."""
    folders = [Path(folder) for folder in arguments.folders]
    for folder in sorted(folders, key=_num_parents):
        for note in send(folder, arguments):
            print(f"{folder}: {note.strip()}", flush=True)


def send(folder: Path, arguments: Send) -> list[str]:
    """Send a finished stage to W&B and return what was done.

    Rows that the run already has are not sent again. Raises ConfigError where the
    folder holds no finished stage, OSError where W&B does not accept the rows.
    """
    result = read_result(folder)
    if result is None:
        raise ConfigError(
            f"{folder}: no finished stage (it has no result.json); run its training"
            " command again to finish it, with logger=wandb to send it as well"
        )
    notes: list[str] = []
    job = Job(str(folder), _wandb_job(folder, arguments))
    seconds = START_SECONDS + CONNECT_SECONDS + arguments.finish_seconds
    dashboards = Dashboards(job, seconds, notes.append)
    with warnings.catch_warnings():
        # an error says the same
        warnings.simplefilter("ignore")
        with dashboards:
            pass
    if dashboards.faults:
        raise OSError(f"{folder}: {dashboards.faults[0]}")
    return notes


def _wandb_job(folder: Path, arguments: Send) -> WandbJob:
    config = yaml.safe_load((folder / "config.yaml").read_text())["config"]
    # stages of early versions may hold secrets: those versions did not refuse them
    refuse_secrets(config)
    wandb_config: dict[str, Any] = (config.get("logger") or {}).get("wandb") or {}
    project = arguments.project or wandb_config.get("project") or "unmask"
    try:
        check_wandb_name(project)
    except ValueError as error:
        raise ConfigError(
            f"{folder}: logger.wandb.project = {error}; add project=..."
        ) from None
    return WandbJob(
        project,
        arguments.entity or wandb_config.get("entity"),
        online=True,
        finish_seconds=arguments.finish_seconds,
        falls_back=False,
        sends_artifacts=True,
        sends_weights=arguments.weights,
    )


def _num_parents(folder: Path) -> int:
    """Count the stages that a stage starts from, as far as they lie in its ledger."""
    result = read_result(folder)
    parent = (result or {}).get("parent")
    if not parent:
        return 0
    runs_dir = folder.parent.parent
    above = next(runs_dir.glob(f"*/{parent}"), None)
    return 1 + (_num_parents(above) if above else 0)
