"""The run that `wandb agent` begins: it gets the final metrics of all stages."""

import warnings
from collections.abc import Iterable
from typing import Any

from unmask.dashboards.names import stage_prefix
from unmask.dashboards.wandb_run import quiet_settings, short_reason


def report_to_agent(
    results: Iterable[dict[str, Any]], config: dict[str, Any], finish_seconds: float
) -> None:
    """Give the run that `wandb agent` has begun the final metrics of all stages.

    A sweep of W&B optimises one of them, as `linear_probe/val/accuracy`. A failure is a
    warning: the results are in the ledger.
    """
    import wandb

    values = {
        f"{prefix}/{metric}": value
        for result in results
        for prefix in [stage_prefix(result["stage"], result["start"])]
        for metric, value in result["metrics"].items()
    }
    try:
        run = wandb.init(
            config=config,
            dir=config.get("runs_dir"),
            settings=quiet_settings(finish_seconds),
        )
        run.log(values)
        run.finish()
    # wandb raises errors of its own, of requests and of its service
    except Exception as error:
        reason = short_reason(error)
        warnings.warn(
            f"the run of `wandb agent` got no results ({reason}); they are in the"
            f" ledger: {', '.join(values)}",
            stacklevel=2,
        )
