"""Curves of stages, for charts: the rows of their metrics logs, thinned out."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from unmask.config.recipes import STAGES
from unmask.stages.curves import read_curves
from unmask.stages.records import RunRecord

# of one curve on a page; a thousand runs share it
MAX_POINTS = 60
# what people look at first of a stage
FIRST = ("train/loss", "val/loss", "val/accuracy")

Points = list[tuple[float, float]]


def thinned_curves(record: RunRecord) -> dict[str, Points]:
    """Return (epoch, value) by measure; nothing for a stage without a metrics log.

    Measures have the names that dashboards give them: the val/loss of a pretraining and
    that of a classifier are two things.
    """
    curves = {}
    for name, curve in read_curves(record.folder).items():
        points = zip(curve.epochs, curve.values, strict=True)
        # JSON has no word for others
        if finite := [point for point in points if math.isfinite(point[1])]:
            curves[f"{record.kind}/{name}"] = thin_out(finite)
    return curves


def thin_out(points: Points) -> Points:
    """Return at most MAX_POINTS of them, evenly spaced, the last one always."""
    every = math.ceil(len(points) / MAX_POINTS)
    return points[::-1][::every][::-1] if every > 1 else points


def chart_data(
    records: Iterable[RunRecord], names: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return what page.js expects of each run that has a curve.

    names: what the page calls stages, by their keys.
    """
    return [
        {"run": record.key, "title": names[record.key], "curves": curves}
        for record in records
        if (curves := thinned_curves(record))
    ]


def curve_names(data: Iterable[dict[str, Any]]) -> list[str]:
    """Return the names of all curves by stage: losses and accuracies, then others."""
    names = dict.fromkeys(name for run in data for name in run["curves"])
    return sorted(names, key=_rank)


def _rank(name: str) -> tuple[int, int, str]:
    kind, _, measure = name.partition("/")
    place = FIRST.index(measure) if measure in FIRST else len(FIRST)
    return [*STAGES, kind].index(kind), place, measure
