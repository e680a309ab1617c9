"""Finished stages to W&B: what was offline, or what it did not take while they were trained."""

from pathlib import Path
from typing import Any

import yaml

from unmask.callbacks.wandb_run import RunCard, WandbRun
from unmask.config.arguments import Send
from unmask.config.checks import ConfigError, refuse_secrets
from unmask.stages.ledger import read_result
from unmask.storage.metrics_log import read


def send(folder: Path, given: Send) -> str:
    """Give W&B the journal of a finished stage, in words. Rows that the run has are not sent again.

    Raises ConfigError where no finished stage lies in the folder, OSError where W&B does not take it.
    """
    result = read_result(folder)
    if result is None:
        raise ConfigError(
            f"{folder}: no finished stage (it has no result.json); the command that"
            " trains it goes on, and with logger=wandb sends it"
        )
    rows = read(folder / "metrics.jsonl")
    if not rows:
        return "no metrics over time, nothing to send"
    run = _run(folder, result, given)
    run.open(rows)
    if not run.online:
        run.close(1)
        raise OSError(run.notes[0])
    had = run.run.starting_step
    try:
        run.close(0)
    except Exception as error:
        raise OSError(
            f"{folder}: W&B did not take all rows ({error}); {run.later}"
        ) from None
    return f"all {len(rows)} rows are in W&B" + (", some were before" if had else "")


def _run(folder: Path, result: dict[str, Any], given: Send) -> WandbRun:
    config = yaml.safe_load((folder / "config.yaml").read_text())["config"]
    refuse_secrets(config)  # of a version that did not refuse them itself
    chosen = (config.get("logger") or {}).get("wandb") or {}
    fingerprint = result["fingerprint"]
    return WandbRun(
        RunCard(
            result["stage"], fingerprint, result.get("parent") or fingerprint, config
        ),
        folder,
        given.project or chosen.get("project") or "unmask",
        given.entity or chosen.get("entity"),
        True,
        given.finish_seconds,
    )
