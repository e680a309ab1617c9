"""What the page of a run says, in plain values."""

import base64
import re
from pathlib import Path
from typing import Any

from markupsafe import Markup

from unmask.config.schema import UNLABELLED
from unmask.data.loading.bad_images import LIST
from unmask.reports.run.figures import loss_curve, measurement_bars, severity_curves
from unmask.reports.run.tables import Result, headline
from unmask.stages.fingerprint import StageSpec, digest
from unmask.stages.ledger import StageFolder
from unmask.stages.plan import Plan
from unmask.storage.atomic import write_text
from unmask.storage.metrics_log import read

STEPS_SHOWN = 6
GROUPS = {
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
    """What the template shows, in plain values."""
    config = plan.config
    pretrain = next((spec for spec in plan.stages if spec.kind == "pretrain"), None)
    folder = StageFolder(config.runs_dir, pretrain) if pretrain else None
    journal = read(folder.path / "metrics.jsonl") if folder else []
    measured = group_measurements(results, config.finetune.labels)
    num_patches = config.grid[0] * config.grid[1]
    visible = config.num_visible
    images = next(
        (r["images"] for r in results if r["metrics"].get("val/accuracy") is not None),
        0,
    )
    return {
        "title": f"A masked autoencoder on {_data_name(plan)}",
        "lead": (
            f"{config.model.name}, {1 - visible / num_patches:.0%} of the patches"
            f" hidden, seed {config.seed}."
        ),
        "facts": _facts(plan, results),
        "sheets": _sheets(folder.pictures) if folder else [],
        "visible": visible,
        "patches": num_patches,
        "unnormalising": _unnormalising(config.target.target_),
        "bars": Markup(measurement_bars(measured)) if measured else None,
        "sentences": [
            sentence(group, config.scratch == config.finetune) for group in measured
        ],
        "n": f"{images:,}",
        "seed": config.seed,
        "error": f"{worst_error(measured, images):.1f}",
        "robustness": _robustness(plan),
        "curve": Markup(loss_curve(journal)) if journal else None,
        "target": TARGETS[config.target.target_.rsplit(".", 1)[1]],
        "rows": [
            _row(spec, result, plan)
            for spec, result in zip(plan.stages, results, strict=True)
        ],
        "bad": _bad(plan, results),
        "command": command,
        "versions": _versions(results),
    }


def _bad(plan: Plan, results: list[Result]) -> str:
    """In how many images others stood in, and where they are named: of the stage that met most."""
    met = [
        (result.get("bad_images", 0), spec)
        for spec, result in zip(plan.stages, results, strict=True)
    ]
    count, spec = max(met, key=lambda each: each[0], default=(0, None))
    if not count or spec is None:
        return ""
    many = "1 image" if count == 1 else f"{count} images"
    return (
        f"{many} could not be read, and others stood in:"
        f" {StageFolder(plan.config.runs_dir, spec).path / LIST}."
    )


def _robustness(plan: Plan) -> Markup | None:
    """Accuracy by severity, where the run measured it."""
    spec = next((spec for spec in plan.stages if spec.kind == "robustness"), None)
    if spec is None or plan.config.robustness.source == "folder":
        return None
    return Markup(
        severity_curves(
            read(StageFolder(plan.config.runs_dir, spec).path / "cells.jsonl")
        )
    )


def group_measurements(
    results: list[Result], labels: int | None
) -> list[dict[str, Any]]:
    """Accuracies by measurement and start; training from scratch is fine-tuning's random start."""
    groups: dict[str, dict[str, Any]] = {}
    for result in results:
        accuracy = result["metrics"].get("val/accuracy")
        if accuracy is None or result["stage"] == "robustness":
            continue
        kind = "finetune" if result["stage"] == "scratch" else result["stage"]
        few = (
            f" on {labels} labels"
            if kind in ("finetune", "partial_finetune") and labels
            else ""
        )
        group = groups.setdefault(
            kind, {"kind": kind, "name": GROUPS[kind] + few, "accuracy": {}}
        )
        group["accuracy"][
            "pretrained" if result["start"] == "given" else result["start"]
        ] = accuracy
    return list(groups.values())


def sentence(group: dict[str, Any], same_recipe: bool = True) -> str:
    """The measurement in words, controls included, whichever way they point."""
    accuracy, name = group["accuracy"], group["name"]
    if "pretrained" not in accuracy:
        return (
            f"{capital(name)}:"
            f" {', '.join(f'{v:.1f} % ({k})' for k, v in accuracy.items())}."
        )
    parts = [
        f"{capital(name)}: {accuracy['pretrained']:.1f} % with the pretrained encoder"
    ]
    if "random" in accuracy:
        scratch = (
            "from scratch, same recipe"
            if same_recipe
            else "from scratch, by a recipe of its own"
        )
        other = (
            scratch
            if group["kind"] == "finetune"
            else "same encoder with random weights"
        )
        gap = accuracy["pretrained"] - accuracy["random"]
        parts.append(f"{accuracy['random']:.1f} % {other} ({gap:+.1f} points)")
    if "pixels" in accuracy:
        parts.append(f"{accuracy['pixels']:.1f} % on raw pixels without any encoder")
    return "; ".join(parts) + "."


def capital(name: str) -> str:
    return name if name.startswith("kNN") else name[0].upper() + name[1:]


def worst_error(measured: list[dict[str, Any]], images: int) -> float:
    """The largest binomial standard error among the accuracies, in points."""
    shares = [value / 100 for group in measured for value in group["accuracy"].values()]
    return max((100 * (p * (1 - p) / images) ** 0.5 for p in shares), default=0.0)


def _facts(plan: Plan, results: list[Result]) -> list[dict[str, str]]:
    config = plan.config
    hidden = 1 - config.num_visible / (config.grid[0] * config.grid[1])
    facts = [{"name": "of each image hidden", "value": f"{hidden:.0%}"}]
    pretrain = next((r for r in results if r["stage"] == "pretrain"), None)
    if pretrain:
        facts += [
            {
                "name": "parameters",
                "value": f"{pretrain['metrics']['parameters'] / 1e6:.2f} M",
            },
            {"name": "epochs of pretraining", "value": str(config.pretrain.epochs)},
            {
                "name": "validation loss",
                "value": f"{pretrain['metrics']['val/loss']:.4f}",
            },
        ]
    seconds = sum(result["seconds"] for result in results)
    return [
        *facts,
        {
            "name": "all stages together",
            "value": f"{seconds // 60:.0f} min {seconds % 60:.0f} s",
        },
    ]


def _sheets(folder: Path) -> list[dict[str, str]]:
    """The saved pictures in order of epoch, thinned out evenly, the last always among them."""
    paths = sorted(folder.glob("epoch=*.png"))
    every = max(1, -(-(len(paths) - 1) // STEPS_SHOWN))
    chosen = [path for i, path in enumerate(paths) if (len(paths) - 1 - i) % every == 0]
    return [
        {
            "epoch": str(int(re.sub(r"\D", "", path.stem))),
            "png": base64.b64encode(path.read_bytes()).decode(),
        }
        for path in chosen
    ]


def _row(spec: StageSpec, result: Result, plan: Plan) -> dict[str, str]:
    number, unit = headline(result)
    recipe: Any = getattr(plan.config, spec.kind, None)
    if spec.kind == "robustness":
        protocol = (
            f"{recipe.source}, severities {', '.join(map(str, recipe.severities))},"
            f" {result['images']:,} images"
        )
        clean = result["metrics"].get("val/clean_accuracy")
        protocol += "" if clean is None else f" (clean: {clean:.1f} %)"
    elif spec.kind == "patch_pca":
        protocol = f"{result['metrics']['patches']:,.0f} patches, centred, not whitened"
    elif spec.kind == "knn":
        protocol = f"k = {recipe.k}, cosine, temperature {recipe.temperature:g}"
    else:
        batch = result["metrics"]["batch_size"]
        protocol = (
            f"{recipe.optimizer}, {recipe.epochs} epochs, batch {batch}, base lr"
            f" {recipe.base_lr:g}"
        )
    if spec.kind == "attentive_probe":
        protocol += ", attention pooling"
    elif spec.kind not in (*UNLABELLED, "robustness") and spec.start != "pixels":
        protocol += (
            ", class token" if recipe.pool == "cls" else ", mean of patch tokens"
        )
    if labels := getattr(recipe, "labels", None):
        protocol += f", {labels} labels"
    place = f"{result['stage']}/{result['fingerprint']}"
    return {
        "title": result["title"],
        "number": number,
        "unit": unit,
        "protocol": protocol,
        "seconds": f"{result['seconds']:.0f}",
        "place": place,
    }


def _data_name(plan: Plan) -> str:
    if plan.listing:
        return plan.listing.root.name
    return {
        "mnist5k": "5,000 MNIST digits",
        "cifar10": "CIFAR-10",
        "cifar100": "CIFAR-100",
    }[plan.config.data.source]


def _unnormalising(target: str) -> str:
    if not target.endswith(".NormalisedPixel"):
        return ""
    return (
        " Contrast and brightness of hidden patches are taken from the visible ones,"
        " not from the answer."
    )


def _versions(results: list[Result]) -> str:
    versions = results[-1].get("versions", {})
    return (
        "Versions: "
        + ", ".join(f"{name} {number}" for name, number in versions.items())
        + "."
    )


def write_page(plan: Plan, results: list[Result], command: str, refresh: bool) -> Path:
    """runs/pages/<digest of the stages>.html; kept as it is unless something new is to be shown."""
    config = plan.config
    name = digest({"stages": [spec.fingerprint for spec in plan.stages]})
    path = Path(config.runs_dir) / "pages" / f"{name}.html"
    if path.exists() and not refresh:
        return path
    import jinja2  # these take a second: a command that finds all finished does without

    from unmask.reports.run.page import page_content

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template("page.html.j2").render(
        page_content(plan, results, command)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)  # two cells of a sweep may write the same page
    return path
