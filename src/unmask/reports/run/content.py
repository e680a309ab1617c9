"""What the page of a run shows, as plain values for its template."""

import base64
import re
from pathlib import Path
from typing import Any

from markupsafe import Markup

from unmask.config.datasets import DATASETS
from unmask.config.schema import Config
from unmask.config.stage_kinds import UNLABELLED_STAGES
from unmask.data.loading.bad_images import LIST_NAME
from unmask.reports.run.figures import loss_curve, measurement_bars, severity_curves
from unmask.reports.run.tables import Result, main_metric
from unmask.stages.fingerprint import StageSpec
from unmask.stages.ledger import StageFolder
from unmask.stages.plan import Plan
from unmask.storage.metrics_log import read_rows

# how many pictures of earlier epochs are shown
EARLIER_PICTURES = 6
MEASUREMENT_NAMES = {
    "knn": "kNN",
    "linear_probe": "linear probe",
    "attentive_probe": "attentive probe",
    "finetune": "fine-tuning",
    "partial_finetune": "fine-tuning the last blocks",
}
TARGETS = {
    "Pixel": "Pixels normalised by the data set",
    "NormalisedPixel": "Pixels normalised by each patch's mean and standard deviation",
    "PatchPCA": "The largest principal coefficients of each patch",
    "Hog": "Histograms of oriented gradients",
    "Tokens": "Discrete tokens of a dVAE",
}


def page_content(plan: Plan, results: list[Result], command: str) -> dict[str, Any]:
    """Return the values of page.html.j2.

    command: what the user typed; the page shows it to reproduce the results.
    """
    config = plan.config
    pretrain = next((spec for spec in plan.stages if spec.kind == "pretrain"), None)
    folder = StageFolder(config.runs_dir, pretrain) if pretrain else None
    metrics = read_rows(folder.path / "metrics.jsonl") if folder else []
    measurements = group_measurements(results, config.finetune.labels)
    same_recipe = config.scratch == config.finetune
    num_patches = config.grid[0] * config.grid[1]
    num_images = _num_validation_images(results)
    return {
        "title": f"A masked autoencoder on {_dataset_name(plan)}",
        "lead": (
            f"{config.model.name}, {_hidden_share(config):.0%} of the patches"
            f" hidden, seed {config.seed}."
        ),
        "facts": _facts(config, results),
        "sheets": _pictures(folder.pictures) if folder else [],
        "visible": config.num_visible,
        "patches": num_patches,
        "unnormalising": _explain_unnormalising(config.target.target_),
        "bars": Markup(measurement_bars(measurements)) if measurements else None,
        "sentences": [
            describe_measurement(group, same_recipe) for group in measurements
        ],
        "n": f"{num_images:,}",
        "seed": config.seed,
        "error": f"{largest_standard_error(measurements, num_images):.1f}",
        "robustness": _robustness(plan),
        "curve": Markup(loss_curve(metrics)) if metrics else None,
        "target": TARGETS[config.target.target_.rsplit(".", 1)[1]],
        "rows": [
            _row(spec, result, config)
            for spec, result in zip(plan.stages, results, strict=True)
        ],
        "bad": _describe_bad_images(plan, results),
        "command": command,
        "versions": _describe_versions(results),
    }


def _hidden_share(config: Config) -> float:
    return 1 - config.num_visible / (config.grid[0] * config.grid[1])


def _num_validation_images(results: list[Result]) -> int:
    for result in results:
        if result["metrics"].get("val/accuracy") is not None:
            return result["images"]
    return 0


def _dataset_name(plan: Plan) -> str:
    if plan.listing:
        return plan.listing.root.name
    return DATASETS[plan.config.data.source].title


def _describe_bad_images(plan: Plan, results: list[Result]) -> str:
    """Say how many images had substitutes in the stage with most of them."""
    counts = [
        (result.get("bad_images", 0), spec)
        for spec, result in zip(plan.stages, results, strict=True)
    ]
    count, spec = max(counts, key=lambda pair: pair[0], default=(0, None))
    if not count or spec is None:
        return ""
    images = "1 image" if count == 1 else f"{count} images"
    path = StageFolder(plan.config.runs_dir, spec).path / LIST_NAME
    return f"{images} could not be read and had substitutes; they are listed in {path}."


def _robustness(plan: Plan) -> Markup | None:
    """Draw the accuracy by severity; return None where the run did not measure it."""
    spec = next((spec for spec in plan.stages if spec.kind == "robustness"), None)
    # Folders of other images, as ImageNet-A, have no severities.
    if spec is None or plan.config.robustness.source == "folder":
        return None
    path = StageFolder(plan.config.runs_dir, spec).path / "cells.jsonl"
    return Markup(severity_curves(read_rows(path)))


def group_measurements(
    results: list[Result], labels: int | None
) -> list[dict[str, Any]]:
    """Group the accuracies by measurement, then by the start of the encoder.

    Training from scratch is the control of fine-tuning that starts at random.
    """
    groups: dict[str, dict[str, Any]] = {}
    for result in results:
        accuracy = result["metrics"].get("val/accuracy")
        if accuracy is None or result["stage"] == "robustness":
            continue
        kind = "finetune" if result["stage"] == "scratch" else result["stage"]
        name = MEASUREMENT_NAMES[kind]
        if kind in ("finetune", "partial_finetune") and labels:
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
    name = capitalise(group["name"])
    if "pretrained" not in accuracy:
        texts = [f"{value:.1f} % ({start})" for start, value in accuracy.items()]
        return f"{name}: {', '.join(texts)}."
    parts = [f"{name}: {accuracy['pretrained']:.1f} % with the pretrained encoder"]
    if "random" in accuracy:
        if group["kind"] != "finetune":
            control = "same encoder with random weights"
        elif same_recipe:
            control = "from scratch, same recipe"
        else:
            control = "from scratch, with another recipe"
        gap = accuracy["pretrained"] - accuracy["random"]
        parts.append(f"{accuracy['random']:.1f} % {control} ({gap:+.1f} points)")
    if "pixels" in accuracy:
        parts.append(f"{accuracy['pixels']:.1f} % on raw pixels without any encoder")
    return "; ".join(parts) + "."


def capitalise(name: str) -> str:
    """Return the name for the start of a sentence; kNN stays kNN."""
    return name if name.startswith("kNN") else name[0].upper() + name[1:]


def largest_standard_error(measurements: list[dict[str, Any]], images: int) -> float:
    """Return the largest binomial standard error of the accuracies, in points."""
    shares = [
        value / 100 for group in measurements for value in group["accuracy"].values()
    ]
    # of a share p over n images: sqrt(p (1 - p) / n)
    return max((100 * (p * (1 - p) / images) ** 0.5 for p in shares), default=0.0)


def _facts(config: Config, results: list[Result]) -> list[dict[str, str]]:
    """Return the few numbers on top of the page."""
    facts = {"of each image hidden": f"{_hidden_share(config):.0%}"}
    pretrain = next((r for r in results if r["stage"] == "pretrain"), None)
    if pretrain:
        metrics = pretrain["metrics"]
        facts["parameters"] = f"{metrics['parameters'] / 1e6:.2f} M"
        facts["epochs of pretraining"] = str(config.pretrain.epochs)
        facts["validation loss"] = f"{metrics['val/loss']:.4f}"
    seconds = sum(result["seconds"] for result in results)
    facts["all stages together"] = f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return [{"name": name, "value": value} for name, value in facts.items()]


def _pictures(folder: Path) -> list[dict[str, str]]:
    """Return evenly spaced pictures of the epochs, with the last one always."""
    paths = sorted(folder.glob("epoch=*.png"))
    # -(-a // b) rounds a / b up
    every = max(1, -(-(len(paths) - 1) // EARLIER_PICTURES))
    chosen = [path for i, path in enumerate(paths) if (len(paths) - 1 - i) % every == 0]
    return [
        {
            "epoch": str(int(re.sub(r"\D", "", path.stem))),
            "png": base64.b64encode(path.read_bytes()).decode(),
        }
        for path in chosen
    ]


def _row(spec: StageSpec, result: Result, config: Config) -> dict[str, str]:
    number, unit = main_metric(result)
    return {
        "title": result["title"],
        "number": number,
        "unit": unit,
        "protocol": _describe_protocol(spec, result, config),
        "seconds": f"{result['seconds']:.0f}",
        "folder": f"{result['stage']}/{result['fingerprint']}",
    }


def _describe_protocol(spec: StageSpec, result: Result, config: Config) -> str:
    """Say in a few words how a stage was trained or measured."""
    recipe: Any = getattr(config, spec.kind, None)
    metrics = result["metrics"]
    if spec.kind == "robustness":
        severities = ", ".join(map(str, recipe.severities))
        text = f"{recipe.source}, severities {severities}, {result['images']:,} images"
        clean = metrics.get("val/clean_accuracy")
        if clean is not None:
            text += f" (clean: {clean:.1f} %)"
    elif spec.kind == "patch_pca":
        text = f"{metrics['patches']:,.0f} patches, centred, not whitened"
    elif spec.kind == "knn":
        text = f"k = {recipe.k}, cosine, temperature {recipe.temperature:g}"
    else:
        text = (
            f"{recipe.optimizer}, {recipe.epochs} epochs, batch"
            f" {metrics['batch_size']}, base lr {recipe.base_lr:g}"
        )

    if spec.kind == "attentive_probe":
        text += ", attention pooling"
    elif spec.kind not in (*UNLABELLED_STAGES, "robustness") and spec.start != "pixels":
        is_token = recipe.pool == "cls"
        text += ", class token" if is_token else ", mean of patch tokens"
    labels = getattr(recipe, "labels", None)
    if labels:
        text += f", {labels} labels"
    return text


def _explain_unnormalising(target: str) -> str:
    """Say where contrast and brightness of the pictures come from."""
    if not target.endswith(".NormalisedPixel"):
        return ""
    return (
        " Contrast and brightness of hidden patches are taken from the visible ones,"
        " not from the original."
    )


def _describe_versions(results: list[Result]) -> str:
    versions = results[-1].get("versions", {})
    texts = [f"{name} {number}" for name, number in versions.items()]
    return f"Versions: {', '.join(texts)}."
