"""Send finished stages to W&B: runs that were offline, or rows that did not arrive."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import Field

from unmask.config.checks import ConfigError, refuse_secrets
from unmask.config.groups import WandbName, check_wandb_name
from unmask.config.section import PathText, Positive, Section
from unmask.stages.ledger import read_result
from unmask.storage.metrics_log import read_rows

if TYPE_CHECKING:
    from unmask.callbacks.wandb_run import WandbRun


class Send(Section):
    folders: Annotated[list[PathText], Field(min_length=1)]
    project: WandbName | None
    entity: WandbName | None
    finish_seconds: Positive


def run(arguments: Send) -> None:
    """Send the rows that W&B lacks, of each folder."""
    for folder in arguments.folders:
        print(f"{folder}: {send(Path(folder), arguments)}")


def send(folder: Path, arguments: Send) -> str:
    """Send the metrics of a finished stage to W&B and return what was done.

    Rows that the run already has are not sent again. Raises ConfigError where the
    folder holds no finished stage, OSError where W&B does not accept the rows.
    """
    result = read_result(folder)
    if result is None:
        raise ConfigError(
            f"{folder}: no finished stage (it has no result.json); run its training"
            " command again to finish it, with logger=wandb to send it as well"
        )
    rows = read_rows(folder / "metrics.jsonl")
    if not rows:
        return "no metrics over time, nothing to send"
    run = _build_run(folder, result, arguments)
    run.open(rows)
    if not run.online:
        # 1: W&B marks the run as failed, not as finished
        run.close(1)
        raise OSError(run.notes[0])
    # above 0 where W&B resumed a run that has rows already
    first_step = run.run.starting_step
    try:
        run.close(0)
    except Exception as error:
        raise OSError(
            f"{folder}: W&B did not take all rows ({error}); {run.remedy}"
        ) from None
    earlier = ", some were before" if first_step else ""
    return f"all {len(rows)} rows are in W&B{earlier}"


def _build_run(folder: Path, result: dict[str, Any], arguments: Send) -> "WandbRun":
    from unmask.callbacks.wandb_run import WandbRun, WandbRunInfo

    config = yaml.safe_load((folder / "config.yaml").read_text())["config"]
    # stages of early versions may hold secrets: those versions did not refuse them
    refuse_secrets(config)
    wandb_config = (config.get("logger") or {}).get("wandb") or {}
    project = arguments.project or wandb_config.get("project") or "unmask"
    try:
        check_wandb_name(project)
    except ValueError as error:
        raise ConfigError(
            f"{folder}: logger.wandb.project = {error}; add project=..."
        ) from None
    fingerprint = result["fingerprint"]
    return WandbRun(
        WandbRunInfo(
            result["stage"], fingerprint, result.get("parent") or fingerprint, config
        ),
        folder,
        project,
        arguments.entity or wandb_config.get("entity"),
        True,
        arguments.finish_seconds,
    )
