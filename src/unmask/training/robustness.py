"""The robustness stage: a finished classifier on images it was not trained for.

MAE Table 13: the 15 corruptions of the validation images at five severities, or folders
of other images (ImageNet-C, -A, -R, -Sketch).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from unmask.config.robustness import Robustness
from unmask.data.augment.corruptions import CORRUPTIONS, SEVERITIES
from unmask.data.listing.evaluation_set import list_evaluation_set
from unmask.data.listing.names import FolderStore
from unmask.data.loading.folders import StoredImages
from unmask.data.loading.in_memory import InMemory
from unmask.data.loading.module import EvaluationData
from unmask.data.loading.sampler import evenly_spread
from unmask.data.loading.views import Transform, Views
from unmask.distributed import collectives
from unmask.randomness import make_key
from unmask.stages.fingerprint import resolve_decode
from unmask.stages.plan import robustness_folders
from unmask.storage.atomic import write_text
from unmask.storage.metrics_log import append_row, read_rows
from unmask.tasks.features import Corruption, measure_accuracy
from unmask.training import build
from unmask.training.classifiers import classifier_from_checkpoint
from unmask.training.corruption_error import ALEXNET_ERRORS, mean_corruption_error
from unmask.training.fit import Metrics, evaluation_trainer
from unmask.training.run import Stage
from unmask.training.starting_weights import read_parent_checkpoint

IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class ImageSet:
    """Name a set of images that the classifier is measured on.

    severity: 0 for clean images. classes: the possible answers. split_name: what the
    list of images that cannot be read calls the set.
    """

    name: str
    severity: int
    split: InMemory | StoredImages
    transform: Transform | None
    classes: tuple[int, ...]
    split_name: str = "validation"


def measure_robustness(stage: Stage) -> Metrics:
    """Return the mean accuracy (per cent) over the changed images.

    Beside it the accuracy on clean images, where these are the data's own, and the mean
    corruption error, where the images are all of ImageNet-C. Each accuracy is written
    at once, so an interrupted stage goes on at the next set. Raises ValueError where
    folders hold different numbers of images.
    """
    recipe = stage.recipe
    path, content = read_parent_checkpoint(stage)
    model = classifier_from_checkpoint(
        path, content["unmask"], content["state_dict"]
    ).model
    log = stage.folder.path / "cells.jsonl"
    sets = groupby(list_image_sets(stage), key=lambda image_set: image_set.name)
    for name, image_sets in sets:
        _measure_all(stage, model, name, image_sets, log)
    rows = collectives.on_rank_zero(lambda: read_rows(log))
    table = pd.DataFrame(rows).drop_duplicates(["name", "severity"], keep="last")
    if collectives.is_rank_zero():
        write_text(stage.folder.path / "robustness.csv", table.to_csv(index=False))
    if recipe.source == "corrupted_folders" and table["images"].nunique() > 1:
        raise ValueError(
            f"robustness.root = {recipe.root}: its folders hold"
            f" {table['images'].min()} to {table['images'].max()} images; unpack it"
            f" whole, remove {log} and run again"
        )
    is_clean = table["severity"] == 0
    # the one folder of other images has no severity
    changed = table if recipe.source == "folder" else table[~is_clean]
    metrics = {
        "val/accuracy": float(changed["accuracy"].mean()),
        "images": float(table["images"].max()),
    }
    if recipe.source == "corrupted":
        clean = table[is_clean]["accuracy"].iloc[0]
        metrics["val/clean_accuracy"] = float(clean)
    return metrics | imagenet_c_error(recipe, stage.run.plan.num_classes, changed)


def _measure_all(
    stage: Stage,
    model: nn.Module,
    name: str,
    image_sets: Iterator[ImageSet],
    log: Path,
) -> None:
    """Measure the severities of a corruption that the log lacks, and print all."""
    # rank zero writes the log, and reads it for all: others might see fewer rows
    rows = collectives.on_rank_zero(lambda: read_rows(log))
    accuracies = {
        row["severity"]: row["accuracy"] for row in rows if row["name"] == name
    }
    for image_set in image_sets:
        if image_set.severity in accuracies:
            continue
        row = measure_set(stage, model, image_set)
        if collectives.is_rank_zero():
            append_row(log, row)
        accuracies[image_set.severity] = row["accuracy"]
    shown = " ".join(f"{accuracy:5.1f}" for accuracy in accuracies.values())
    stage.console.print(f"  {name:18}{shown} %", highlight=False)


def measure_set(stage: Stage, model: nn.Module, image_set: ImageSet) -> dict[str, Any]:
    """Return the set's row of the table."""
    config, recipe = stage.config, stage.recipe
    image_format = build.build_format(config, config.stage_image_size(recipe.of))
    if recipe.source == "corrupted_folders":
        # ImageNet-C's files are centre crops already
        image_format = replace(image_format, eval_crop=1.0)
    views = Views(image_set.split, image_format, None, config.seed, image_set.transform)
    ids = evenly_spread(len(views), recipe.images or len(views))
    data = EvaluationData(views, ids, build.build_loading(config), image_set.split_name)
    trainer = evaluation_trainer(stage)
    return {
        "name": image_set.name,
        "severity": image_set.severity,
        "accuracy": measure_accuracy(trainer, model, data, image_set.classes),
        "images": len(ids),
    }


def list_image_sets(stage: Stage) -> Iterator[ImageSet]:
    """Yield the sets that robustness.source names.

    The clean validation images and each corruption of them; or each folder of corrupted
    images; or the one folder.
    """
    recipe = stage.recipe
    if recipe.source != "corrupted":
        for (name, severity), folder in robustness_folders(recipe).items():
            yield _folder_set(stage, folder, name, severity)
        return
    _, validation = stage.run.splits
    classes = tuple(range(stage.run.plan.num_classes))
    yield ImageSet("clean", 0, validation, None, classes)
    key = make_key(stage.config.seed, "corruption")
    for name in recipe.corruptions or CORRUPTIONS:
        for severity in recipe.severities:
            corruption = Corruption(name, severity, key)
            yield ImageSet(name, severity, validation, corruption, classes)


def _folder_set(stage: Stage, root: Path, name: str, severity: int) -> ImageSet:
    """Return a folder of class folders as a set.

    Its classes alone are possible answers: ImageNet-A and -R hold 200 of 1,000.
    """
    data = stage.config.data
    leave_out = stage.recipe.unknown_classes == "leave_out"
    listing = list_evaluation_set(root, stage.run.plan.class_names, leave_out)
    for note in listing.notes:
        stage.console.print(f"  {note}", soft_wrap=True, markup=False)
    labels = torch.from_numpy(listing.val.labels).long()
    store = FolderStore(root, listing.val.names)
    images = StoredImages(
        store, labels, data.channels, resolve_decode(data), data.ranges
    )
    return ImageSet(
        name,
        severity,
        images,
        None,
        tuple(labels.unique().tolist()),
        f"{name} {severity}" if severity else "validation",
    )


def imagenet_c_error(
    recipe: Robustness, num_classes: int, changed: pd.DataFrame
) -> Metrics:
    """Return the mean corruption error in per cent, for all of ImageNet-C alone."""
    if (
        recipe.source != "corrupted_folders"
        or recipe.images is not None
        or num_classes != IMAGENET_CLASSES
    ):
        return {}
    accuracies = changed.groupby("name")["accuracy"].mean()
    errors = {str(name): 1 - value / 100 for name, value in accuracies.items()}
    has_all_severities = len(changed) == len(ALEXNET_ERRORS) * len(SEVERITIES)
    if errors.keys() != ALEXNET_ERRORS.keys() or not has_all_severities:
        return {}
    return {"val/mce": 100 * mean_corruption_error(errors)}
