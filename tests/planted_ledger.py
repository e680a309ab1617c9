"""Ledgers as runs leave them, written without training: configs, results, curves, sweeps."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from small_runs import plan_for
from unmask.reports.paper import findings, result_rows
from unmask.stages.fingerprint import StageSpec
from unmask.stages.ledger import StageFolder
from unmask.stages.origin import Origin, write_origin
from unmask.stages.plan import Plan
from unmask.stages.sweeps import write_sweep

METRICS = {"pretrain": {"val/loss": 0.5}, "knn": {"val/accuracy": 90.0}}


def kept_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let results be kept in this folder in place of experiments/."""

    def kept_files() -> list[Path]:
        return sorted(folder.glob("*/results/*.csv"))

    for module in (findings, result_rows):
        monkeypatch.setattr(module, "kept_files", kept_files)
    monkeypatch.setattr(findings, "experiment_folder", folder.joinpath)


def plant(
    runs_dir: Path,
    *overrides: str,
    metrics: Mapping[str, Mapping[str, float]] = METRICS,
    seconds: float = 60.0,
    sweep: str | None = None,
    tiny: bool = False,
) -> list[StageFolder]:
    """Write the stages of a run; those whose kind has no metrics stay unfinished."""
    plan = plan_for(f"runs_dir={runs_dir}", *overrides, tiny=tiny)
    folders = []
    for spec in plan.stages:
        folder = begin(plan, spec, Origin(overrides, sweep))
        if spec.kind in metrics:
            facts = {"seconds": seconds, "images": 1000}
            folder.finish(dict(metrics[spec.kind]), facts)
        folders.append(folder)
    return folders


def begin(plan: Plan, spec: StageSpec, origin: Origin) -> StageFolder:
    folder = StageFolder(plan.config.runs_dir, spec)
    folder.create()
    folder.write_config(plan.config.to_dict())
    write_origin(folder.path, spec, origin)
    return folder


def plant_sweep(
    runs_dir: Path, *cells: tuple[str, ...], tables: Mapping[Any, Any] | None = None
) -> str:
    """Write the file of a sweep with these cells, and return its id."""
    plans = {
        cell: plan_for(f"runs_dir={runs_dir}", *cell, tiny=False) for cell in cells
    }
    path = write_sweep(plans, tables or {}, ["mask_ratio=0.5,0.75", "seed=0"])
    assert path
    return path.stem


def plant_curve(
    folder: Path, values: Mapping[int, float], name: str = "val/loss"
) -> None:
    """Write a metrics log with one value at each step; an epoch has ten steps."""
    rows = [
        {"step": step, "epoch": step / 10, name: value}
        for step, value in values.items()
    ]
    (folder / "metrics.jsonl").write_text(
        "".join(f"{json.dumps(row)}\n" for row in rows)
    )
