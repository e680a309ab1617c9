"""The page of one run: a self-contained HTML file.

It shows pictures, measurements beside their controls, and the loss curve.
"""

import base64
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unmask.config.datasets import find_dataset
from unmask.config.dials import format_value, read_dials
from unmask.config.foreign import describe_part, load_part, part_name
from unmask.config.recipes import FINE_TUNING_STAGES, STAGES, stage_noun
from unmask.config.schema import Config
from unmask.reports.page_names import note_stages, run_page
from unmask.reports.render import render
from unmask.reports.run.tables import Result, main_metric, unconverged
from unmask.stages.evaluation_sets import stage_config
from unmask.stages.fingerprint import StageSpec
from unmask.stages.ledger import StageFolder
from unmask.stages.plan import Plan
from unmask.stages.records import pictures_by_epoch
from unmask.stages.scope import stage_dials
from unmask.storage.atomic import write_text
from unmask.storage.metrics_log import read_rows

# how many pictures of earlier epochs are shown
EARLIER_PICTURES = 6


def write_page(plan: Plan, results: list[Result], command: str, refresh: bool) -> Path:
    """Write the run's page into runs/pages/, and return its path.

    A page that is there stays as it is unless `refresh` says that results are new.
    command: what the user typed; the page shows it to reproduce the results.
    """
    differs = describe_dials(plan)
    path = run_page(plan, f"{differs} s{plan.config.seed}".strip())
    if path.exists() and not refresh:
        return path
    content = _page_content(plan, results)
    template = Path(__file__).with_name("page.html.j2")
    content["warnings"] = list(filter(None, map(unconverged, results)))
    text = render(template, command=command, differs=differs, **content)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two cells of a sweep may write the same page at once.
    write_text(path, text)
    note_stages(path, plan)
    return path


def describe_dials(plan: Plan) -> str:
    """Return what differs from the defaults and matters to a stage, as it is typed."""
    config = plan.config.to_dict()
    dials = read_dials(config)
    differs: dict[str, Any] = {}
    for spec in plan.stages:
        differs |= stage_dials(dials, spec.kind, spec.start, config)
    return " ".join(f"{key}={format_value(value)}" for key, value in differs.items())


def _page_content(plan: Plan, results: list[Result]) -> dict[str, Any]:
    """Return the values of page.html.j2."""
    # These import torch and matplotlib: a command whose stages are all finished has
    # its page, without waiting seconds for them.
    from unmask.data.loading.bad_images import LIST_NAME
    from unmask.reports.run.figures import loss_curve, measurement_bars, severity_curves
    from unmask.reports.svg import inline_svg

    config = plan.config
    folders = {
        spec.kind: StageFolder(config.runs_dir, spec) for spec in reversed(plan.stages)
    }
    stages = list(zip(plan.stages, results, strict=True))
    pretrain = folders.get("pretrain")
    metrics = read_rows(pretrain.path / "metrics.jsonl") if pretrain else []
    measurements = group_measurements(results, config.finetune.labels)
    with_accuracy = [r for r in results if "val/accuracy" in r["metrics"]]
    num_images = with_accuracy[0]["images"] if with_accuracy else 0
    worst, with_most_bad = max(stages, key=lambda stage: stage[1].get("bad_images", 0))
    pretraining = next((r for r in results if r["stage"] == "pretrain"), {})
    cells = _corrupted_cells(plan)
    return {
        "config": config,
        "dataset": plan.listing.root.name
        if plan.listing
        else find_dataset(config.data.source).title,
        "picture_note": _picture_note(config.target.target_),
        "masking": _describe_class(config.masking.target_),
        "target": _describe_class(config.target.target_),
        "num_patches": math.prod(config.grid),
        "num_visible": pretraining.get("visible_patches", config.num_visible),
        "pretrain": pretraining or None,
        "total_seconds": sum(result["seconds"] for result in results),
        "sheets": _pictures(pretrain.path) if pretrain else [],
        "bars": inline_svg("bars", lambda: measurement_bars(measurements))
        if measurements
        else None,
        "sentences": [
            describe_measurement(group, config.scratch == config.finetune)
            for group in measurements
        ],
        "num_images": num_images,
        "error": largest_standard_error(measurements, num_images),
        "severities": inline_svg("severities", lambda: severity_curves(cells))
        if cells
        else None,
        "num_corruptions": len({cell["name"] for cell in cells if cell["severity"]}),
        "curve": inline_svg("loss", lambda: loss_curve(metrics)) if metrics else None,
        **_classifier_figures(plan),
        "rows": [
            (result, main_metric(result), _describe_protocol(spec, result, config))
            for spec, result in stages
        ],
        "num_bad": with_most_bad.get("bad_images", 0),
        "bad_list": StageFolder(config.runs_dir, worst).path / LIST_NAME,
        "versions": results[-1].get("versions", {}),
    }


def _describe_class(target: str) -> str:
    """Return the name of a sampler or target, and the first line of its docstring."""
    return ": ".join(filter(None, (part_name(target), describe_part(target))))


def _picture_note(target: str) -> str:
    """Return what readers of the pictures must know, if the target's class says it."""
    try:
        return getattr(load_part(target), "picture_note", "")
    except ValueError:
        # the results are here, and the user's file need not be
        return ""


def _classifier_figures(plan: Plan) -> dict[str, Any]:
    """Return the curves of all classifiers, and class by class those of no control."""
    from unmask.reports.run.class_figures import (
        accuracy_curves,
        class_bars,
        confusion_matrix,
    )
    from unmask.reports.svg import inline_svg

    folders = {
        spec: StageFolder(plan.config.runs_dir, spec).path for spec in plan.stages
    }
    rows = {
        spec.title: read_rows(folder / "metrics.jsonl")
        for spec, folder in folders.items()
    }
    classes = []
    for spec, folder in folders.items():
        if spec.start in STAGES[spec.kind].controls:
            continue
        bars = _draw_table(folder / "classes.csv", class_bars)
        if bars:
            matrix = _draw_table(folder / "confusion.csv", confusion_matrix)
            classes.append((spec.title, bars, matrix))
    return {
        "accuracies": inline_svg("accuracies", lambda: accuracy_curves(rows)),
        "classes": classes,
    }


def _draw_table(path: Path, draw: Callable[[Any], Any]) -> str | None:
    """Return the figure of a CSV file in a stage's folder; None where there is none."""
    import pandas as pd

    from unmask.reports.svg import inline_svg

    if not path.exists():
        return None
    index = "true" if path.name == "confusion.csv" else None
    table = pd.read_csv(path, index_col=index, dtype={"class": str, "true": str})
    name = f"{path.parent.parent.name}-{path.parent.name}-{path.stem}"
    return inline_svg(name, lambda: draw(table))


def group_measurements(
    results: list[Result], labels: int | None
) -> list[dict[str, Any]]:
    """Group the accuracies by measurement, then by the start of the encoder.

    Training from scratch is the control of fine-tuning that starts at random.
    """
    groups: dict[str, dict[str, Any]] = {}
    for result in results:
        accuracy = result["metrics"].get("val/accuracy")
        if accuracy is None or STAGES[result["stage"]].parent == "classifier":
            continue
        kind = "finetune" if result["stage"] == "scratch" else result["stage"]
        name = stage_noun(kind)
        if kind in FINE_TUNING_STAGES and labels:
            name += f" on {labels} labels"
        group = groups.setdefault(kind, {"kind": kind, "name": name, "accuracy": {}})
        # Weights of others (init_from) take the place of pretrained ones.
        start = "pretrained" if result["start"] == "given" else result["start"]
        group["accuracy"][start] = accuracy
    return list(groups.values())


def describe_measurement(group: dict[str, Any], same_recipe: bool = True) -> str:
    """Say what was measured, with its controls, whichever way they point.

    same_recipe: whether training from scratch used fine-tuning's recipe.
    """
    accuracy = group["accuracy"]
    name = group["name"]
    # kNN stays kNN at the start of a sentence
    if group["kind"] != "knn":
        name = name[0].upper() + name[1:]
    if "pretrained" not in accuracy:
        texts = [f"{value:.1f} % ({start})" for start, value in accuracy.items()]
        return f"{name}: {', '.join(texts)}."
    parts = [f"{name}: {accuracy['pretrained']:.1f} % with the pretrained encoder"]
    if "random" in accuracy:
        control = "same encoder with random weights"
        if group["kind"] == "finetune":
            recipe = "same recipe" if same_recipe else "with another recipe"
            control = f"from scratch, {recipe}"
        gap = accuracy["pretrained"] - accuracy["random"]
        parts.append(f"{accuracy['random']:.1f} % {control} ({gap:+.1f} points)")
    if "pixels" in accuracy:
        parts.append(f"{accuracy['pixels']:.1f} % on raw pixels without any encoder")
    return "; ".join(parts) + "."


def largest_standard_error(measurements: list[dict[str, Any]], images: int) -> float:
    """Return the largest binomial standard error of the accuracies, in points."""
    shares = [
        value / 100 for group in measurements for value in group["accuracy"].values()
    ]
    # of a share p over n images: sqrt(p (1 - p) / n)
    return max((100 * (p * (1 - p) / images) ** 0.5 for p in shares), default=0.0)


def _pictures(stage: Path) -> list[tuple[int, str]]:
    """Return evenly spaced epochs with their PNGs, the last one always."""
    pictures = list(pictures_by_epoch(stage).items())
    every = max(1, math.ceil((len(pictures) - 1) / EARLIER_PICTURES))
    return [
        (epoch, base64.b64encode(path.read_bytes()).decode())
        for epoch, path in pictures[::-1][::every][::-1]
    ]


def _corrupted_cells(plan: Plan) -> list[dict[str, Any]]:
    """Return the rows of the stage on corrupted images; none of folders of others."""
    for spec in plan.stages:
        config = stage_config(plan.config, spec)
        if spec.kind == "robustness" and config.robustness.source != "folder":
            return read_rows(StageFolder(config.runs_dir, spec).path / "cells.jsonl")
    return []


def _describe_protocol(spec: StageSpec, result: Result, config: Config) -> str:
    """Say in a few words how a stage was trained or measured."""
    recipe: Any = getattr(stage_config(config, spec), spec.kind, None)
    text = STAGES[spec.kind].describe(recipe, result)
    pool = getattr(recipe, "pool", None)
    if pool and spec.start != "pixels":
        text += ", class token" if pool == "cls" else ", mean of patch tokens"
    if labels := getattr(recipe, "labels", None):
        text += f", {labels} labels"
    return text
