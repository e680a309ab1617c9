"""The names of metrics on dashboards: the stage's, then the key of the metrics log.

`val/loss` of a pretraining and of a classifier are two things, and have two names.
"""

from typing import Any

from unmask.config.recipes import STAGES

# the axis of all metrics: optimiser steps
STEP_AXIS = "trainer/global_step"
# they mean the same in every stage, or are an axis
COMMON_KEYS = ("epoch",)
# what summaries keep of a metric over time, by a part of its name
BEST = {"accuracy": "max,last", "watch/": "max,last", "loss": "min,last"}

# below a sheet of reconstructions
CAPTION = "epoch {epoch:g}: original, visible patches, reconstruction"

# a row of the metrics log: step, epoch, and the metrics at that step
Row = dict[str, Any]


def stage_prefix(kind: str, start: str) -> str:
    """Return a stage's name in keys; that of a control has its start in it."""
    return f"{kind}_{start}" if start in STAGES[kind].controls else kind


def dashboard_row(prefix: str, row: Row) -> dict[str, float]:
    """Return the metrics of a row by their names on dashboards, without the step."""
    return {
        key if key in COMMON_KEYS else f"{prefix}/{key}": value
        for key, value in row.items()
        if key != "step"
    }


def result_row(result: dict[str, Any]) -> Row:
    """Return the one row of a stage that has no metrics log: its result."""
    metrics = result["metrics"].items()
    return {"step": 0} | {key: value for key, value in metrics if "/" in key}


def result_facts(prefix: str, result: dict[str, Any]) -> dict[str, Any]:
    """Return what a result says, flat, by names that begin with `result/`.

    A measured metric has the stage's name in it; the rest (seconds, images, steps,
    versions) means the same in every stage.
    """
    metrics = {
        f"result/{prefix}/{key}" if "/" in key else f"result/{key}": value
        for key, value in result["metrics"].items()
    }
    facts = {
        f"result/{key}": value
        for key, value in result.items()
        if isinstance(value, int | float) or key == "finished"
    }
    versions = {
        f"result/versions/{name}": version
        for name, version in result.get("versions", {}).items()
    }
    return metrics | facts | versions


def summary_kind(key: str) -> str | None:
    """Return what a summary keeps of a metric: its best and last values, or None."""
    return next((kept for part, kept in BEST.items() if part in key), None)
