"""The robustness stage: a finished classifier on images it was not trained for (MAE Table 13)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from unmask.data.augment.corruptions import CORRUPTIONS, SEVERITIES
from unmask.data.listing.listing import list_other
from unmask.data.loading.folders import Files, Folder
from unmask.data.loading.in_memory import InMemory
from unmask.data.loading.module import Evaluation
from unmask.data.loading.views import Change, Views
from unmask.distributed import collectives
from unmask.randomness import make_key
from unmask.stages.fingerprint import chosen_decode
from unmask.stages.ledger import StageFolder
from unmask.stages.plan import Plan, corruption_folders
from unmask.storage.metrics_log import append, read
from unmask.tasks.features import Corruption, accuracy
from unmask.training import build
from unmask.training.fit import Fitting, Metrics

# AlexNet's top-1 error on ImageNet-C, the mean of the five severities: the table of
# github.com/hendrycks/robustness
# (its mCE spreadsheet, repeated in github.com/google-research/augmix, imagenet.py);
# checked against the means of the
# errors at each severity that timm lists.
ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}


def mean_corruption_error(errors: dict[str, float]) -> float:
    """mCE as a share: 1 is AlexNet's. `errors`: for each of the 15 corruptions the error averaged over severities.

    The ratio of sums over the five severities is the ratio of their means.
    """
    if errors.keys() != ALEXNET_ERRORS.keys():
        missing = ", ".join(sorted(ALEXNET_ERRORS.keys() - errors.keys())) or "nothing"
        unknown = ", ".join(sorted(errors.keys() - ALEXNET_ERRORS.keys())) or "nothing"
        raise ValueError(
            f"mCE is over the 15 corruptions of ImageNet-C; missing: {missing};"
            f" unknown: {unknown}"
        )
    for name, error in errors.items():
        if not 0 <= error <= 1:
            raise ValueError(
                f"the error on {name} is {error}; give shares from 0 to 1, not percent"
            )
    return sum(error / ALEXNET_ERRORS[name] for name, error in errors.items()) / len(
        errors
    )


IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Cell:
    """One set of images; severity 0 is the clean one."""

    name: str
    severity: int
    split: InMemory | Files
    change: Change | None
    classes: tuple[int, ...]  # the possible answers
    images: str = "validation"  # what the list of those that cannot be read calls them


class Robustness:
    """Measures cell by cell; what is measured is kept, so an interrupted stage goes on at the next cell."""

    def __init__(self, plan: Plan, folder: StageFolder, fit: Fitting) -> None:
        self.plan, self.folder, self.fit = plan, folder, fit
        self.recipe, self.shape = (
            plan.config.robustness,
            plan.config.stage_image_size(plan.config.robustness.of),
        )

    def __call__(self, model: nn.Module, own: InMemory | Files) -> Metrics:
        """Mean accuracy over the changed images, beside the clean ones' where they are the data's own."""
        journal = self.folder.path / "cells.jsonl"
        for name, cells in groupby(self.cells(own), key=lambda cell: cell.name):
            # the leader writes it: others might see less, or more
            rows = collectives.on_rank_zero(lambda: read(journal))
            found = {(row["name"], row["severity"]): row["accuracy"] for row in rows}
            for cell in cells:
                if (name, cell.severity) not in found:
                    row = self.measured(model, cell)
                    if collectives.is_rank_zero():
                        append(journal, row)
                    found[name, cell.severity] = row["accuracy"]
            shown = " ".join(
                f"{value:5.1f}" for (of, _), value in found.items() if of == name
            )
            self.fit.console.print(f"  {name:18}{shown} %", highlight=False)
        table = pd.DataFrame(
            collectives.on_rank_zero(lambda: read(journal))
        ).drop_duplicates(["name", "severity"], keep="last")
        if collectives.is_rank_zero():
            table.to_csv(self.folder.path / "robustness.csv", index=False)
        if self.recipe.source == "corrupted_folders" and table["images"].nunique() > 1:
            raise ValueError(
                f"robustness.root = {self.recipe.root}: its folders hold"
                f" {table['images'].min()} to {table['images'].max()} images; unpack it"
                f" whole, remove {journal} and run again"
            )
        changed = (
            table[table["severity"] != 0] if self.recipe.source != "folder" else table
        )
        metrics = {
            "val/accuracy": float(changed["accuracy"].mean()),
            "images": float(table["images"].max()),
        }
        if self.recipe.source == "corrupted":
            metrics["val/clean_accuracy"] = float(
                table[table["severity"] == 0]["accuracy"].iloc[0]
            )
        return metrics | self.mce(changed)

    def measured(self, model: nn.Module, cell: Cell) -> dict[str, Any]:
        config = self.plan.config
        form = build.build_format(config, self.shape)
        if self.recipe.source == "corrupted_folders":
            # ImageNet-C's files are centre crops already
            form = replace(form, eval_crop=1.0)
        views = Views(cell.split, form, None, config.seed, cell.change)
        spread = torch.linspace(
            0, len(views) - 1, min(self.recipe.images or len(views), len(views))
        ).long()
        ids = spread.unique().tolist()
        data = Evaluation(views, ids, build.build_loading(config), cell.images)
        found = accuracy(self.fit.quiet_trainer(), model, data, cell.classes)
        return {
            "name": cell.name,
            "severity": cell.severity,
            "accuracy": found,
            "images": len(ids),
        }

    def cells(self, own: InMemory | Files) -> Iterator[Cell]:
        """The clean images and each corruption of them; or each folder of corrupted ones; or the one folder."""
        recipe, everything = self.recipe, tuple(range(self.plan.num_classes))
        if recipe.source == "folder":
            yield self.other(Path(str(recipe.root)).expanduser(), "folder", 0)
        elif recipe.source == "corrupted_folders":
            for (name, severity), place in corruption_folders(recipe).items():
                yield self.other(place, name, severity)
        else:
            yield Cell("clean", 0, own, None, everything)
            key = make_key(self.plan.config.seed, "corruption")
            for name in recipe.corruptions or CORRUPTIONS:
                for severity in recipe.severities:
                    yield Cell(
                        name, severity, own, Corruption(name, severity, key), everything
                    )

    def other(self, root: Path, name: str, severity: int) -> Cell:
        listing, config = list_other(root, self.plan.class_names), self.plan.config
        labels = torch.from_numpy(listing.val.labels).long()
        files = Files(
            Folder(root, listing.val.names),
            labels,
            config.data.channels,
            chosen_decode(config.data),
        )
        return Cell(
            name,
            severity,
            files,
            None,
            tuple(labels.unique().tolist()),
            f"{name} {severity}" if severity else "validation",
        )

    def mce(self, changed: pd.DataFrame) -> Metrics:
        """Mean corruption error against AlexNet, where it is ImageNet-C, whole (Hendrycks & Dietterich 2019)."""
        means = (1 - changed.groupby("name")["accuracy"].mean() / 100).to_dict()
        whole = means.keys() == ALEXNET_ERRORS.keys() and len(changed) == len(
            ALEXNET_ERRORS
        ) * len(SEVERITIES)
        whole &= self.recipe.images is None
        if (
            self.recipe.source != "corrupted_folders"
            or not whole
            or self.plan.num_classes != IMAGENET_CLASSES
        ):
            return {}
        return {
            "val/mce": (
                100
                * mean_corruption_error(
                    {str(name): error for name, error in means.items()}
                )
            )
        }
