"""From a config to its stages: what runs, from which weights, under which fingerprint."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from unmask.config.checks import ConfigError, needs_labels
from unmask.config.recipes import Corruption, Robustness
from unmask.config.schema import LABELLED, Config, Container, Data
from unmask.data.listing.listing import Listing, list_other
from unmask.data.sources import CLASSES, list_source
from unmask.stages.fingerprint import (
    FITTED,
    StageSpec,
    digest,
    fitted_science,
    measure_science,
    pretrain_science,
    robustness_science,
    weights_identity,
)

# The numbers are the content's: a changed package or archive is another data set
IDENTITIES = {
    "mnist5k": "mnist5k-1",
    "cifar10": "cifar10-c58f3010",
    "cifar100": "cifar100-eb9058c3",
}
# training images of each class
SIZES = {"mnist5k": [400] * 10, "cifar10": [5000] * 10, "cifar100": [500] * 100}
# Which controls say something: fine-tuning a random encoder is what `scratch` is, and
# pixels have no blocks or tokens
CONTROLS = {
    "knn": ("random", "pixels"),
    "linear_probe": ("random", "pixels"),
    "attentive_probe": ("random",),
    "partial_finetune": ("random",),
    "finetune": ("pixels",),
}
# target: its stage
NEEDS = {"unmask.targets.PatchPCA": "patch_pca", "unmask.targets.Tokens": "tokenizer"}


@dataclass(frozen=True)
class Plan:
    """The stages of a run in order, with what is known of the data before any image is read."""

    config: Config
    stages: tuple[StageSpec, ...]
    class_names: tuple[str, ...]
    listing: Listing | None

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def identity(self) -> str:
        """Of the data set: its content, not its place."""
        return (
            self.listing.identity
            if self.listing
            else IDENTITIES[self.config.data.source]
        )

    @property
    def training_images(self) -> int:
        return (
            len(self.listing.train)
            if self.listing
            else sum(SIZES[self.config.data.source])
        )


def listed(data: Data, container: Container) -> Listing | None:
    """The images in a folder, None where the data set is a known one. Raises ConfigError where there are none."""
    if data.source in IDENTITIES:
        return None
    try:
        return list_source(data.source, str(data.root), data.holdout, container)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def make_plan(config: Config, listing: Listing | None = None) -> Plan:
    """Raises ConfigError where the data is missing or lacks the labels that a stage needs.

    listing: of the images, where somebody has listed them a moment ago.
    """
    listing = listing or listed(config.data, config.source)
    identity = listing.identity if listing else IDENTITIES[config.data.source]
    classes = listing.classes if listing else CLASSES[config.data.source]
    if config.data.measured not in (None, identity):
        raise ConfigError(
            f"data.statistics is of other images ({config.data.measured}, these are"
            f" {identity}); measure these: python src/measure.py with the same data"
        )
    if faults := needs_labels(config, len(classes)) + _label_counts(config, listing):
        raise ConfigError("\n".join(faults))
    other = _other_images(config, classes) if "robustness" in config.stages else None
    return Plan(config, tuple(_stages(config, identity, other)), classes, listing)


def corruption_folders(recipe: Robustness) -> dict[tuple[str, int], Path]:
    """ImageNet-C's layout: root/<corruption>/<severity>/<class>/."""
    names = recipe.corruptions or get_args(Corruption)
    return {
        (name, s): Path(str(recipe.root)).expanduser() / name / str(s)
        for name in names
        for s in recipe.severities
    }


def _other_images(config: Config, classes: tuple[str, ...]) -> str | None:
    """The identity of the folders that the robustness stage reads; of ImageNet-C's 75 the first one stands for all."""
    recipe = config.robustness
    if recipe.source == "corrupted":
        return None
    places = (
        [Path(str(recipe.root)).expanduser()]
        if recipe.source == "folder"
        else list(corruption_folders(recipe).values())
    )
    missing = [str(place) for place in places if not place.is_dir()]
    if missing:
        raise ConfigError(
            f"robustness.root = {recipe.root}: {missing[0]} is missing ({len(missing)}"
            f" of {len(places)})"
        )
    try:
        return list_other(places[0], classes).identity
    except ValueError as error:
        raise ConfigError(f"robustness.root = {recipe.root}: {error}") from None


def _label_counts(config: Config, listing: Listing | None) -> list[str]:
    """A class must have its share of the labels that a stage asks for."""
    sizes = (
        np.unique(listing.train.labels, return_counts=True)[1].tolist()
        if listing
        else SIZES[config.data.source]
    )
    classes, smallest = len(sizes), min(sizes)
    measured = [
        name
        for name in config.worked_stages
        if name in LABELLED and name != "robustness"
    ]
    asked = {name: getattr(config, name).labels for name in measured}
    too_few = [
        f"labels={labels}: {name} needs at least one label of each of {classes}"
        f" classes; at least labels={classes}"
        for name, labels in asked.items()
        if labels and labels < classes
    ]
    return too_few + [
        f"labels={labels} asks {name} for {-(-labels // classes)} images of each of"
        f" {classes} classes, and the smallest has {smallest}; at most"
        f" labels={smallest * classes}, or labels=null for all"
        for name, labels in asked.items()
        if labels and -(-labels // classes) > smallest
    ]


def _stages(config: Config, identity: str, other: str | None) -> list[StageSpec]:
    """Each measurement, then its controls; a stage's parent comes before it, asked for or not.

    Given weights are measured as they are, unless a pretraining is asked for: it starts from them.
    """
    weights = weights_identity(config.init_from) if config.init_from else None
    fitted = {
        kind: StageSpec(kind, "images", fitted_science(kind, config, identity))
        for kind in FITTED
    }
    before = fitted.get(NEEDS.get(config.target.target_, ""))
    tokenizer = config.tokenizer_file
    if tokenizer:
        before, tokenizer = None, weights_identity(tokenizer, "tokenizer.file")
    science = pretrain_science(config, identity, weights, tokenizer)
    first = StageSpec("pretrain", "given" if weights else "random", science, before)
    as_given = weights is not None and "pretrain" not in config.stages

    def measurement(kind: str, start: str) -> StageSpec:
        parent = first if start == "pretrained" else None
        return StageSpec(
            kind, start, measure_science(kind, start, config, identity, weights), parent
        )

    planned: list[StageSpec] = []
    for kind in config.stages:
        if kind in FITTED:
            planned.append(fitted[kind])
            continue
        measured = config.robustness.of if kind == "robustness" else kind
        if measured != "scratch" and not as_given:
            planned += [before, first] if before else [first]
        starts = _starts(measured, config, as_given)
        if kind == "robustness":
            parent = measurement(measured, starts[0])
            planned += [
                parent,
                StageSpec(
                    kind, starts[0], robustness_science(config, identity, other), parent
                ),
            ]
        else:
            planned += [measurement(kind, start) for start in starts]
    return list(dict.fromkeys(planned))


def _starts(kind: str, config: Config, as_given: bool) -> list[str]:
    """Which weights a measurement is made on."""
    if kind == "pretrain":
        return []
    if kind == "scratch":
        return ["random"]
    return [
        "given" if as_given else "pretrained",
        *(control for control in config.controls if control in CONTROLS[kind]),
    ]


def stages_without_data(config: Config, name: str) -> tuple[StageSpec, ...]:
    """The stages of a run whose images need not be here; name: of the data, which stands for their content.

    Fingerprints tell such stages apart; they are the ledger's only for data that come with their identity.
    """
    return tuple(_stages(config, IDENTITIES.get(config.data.source, name), "unlisted"))


CHECKED = "UNMASK_CHECKED"  # the identities of all cells, with commas between


def identity(plan: Plan) -> str:
    """Of all that its stages' results depend on."""
    return digest({"stages": [spec.fingerprint for spec in plan.stages]})


def agree(plans: Iterable[Plan]) -> None:
    """To be called by a sweep once it has checked its cells, which inherit what is set here."""
    os.environ[CHECKED] = ",".join(dict.fromkeys(map(identity, plans)))


def refuse_change(plan: Plan) -> None:
    """To be called by a cell. Raises ConfigError where it is not one of those that were checked."""
    checked = os.environ.get(CHECKED)
    if checked and identity(plan) not in checked.split(","):
        stages = ", ".join(f"{spec.kind}/{spec.fingerprint}" for spec in plan.stages)
        raise ConfigError(
            "the project or its images changed under the sweep: this cell is now"
            f" {stages}, which was not checked; undo the change, or type the sweep's"
            " command again to run what is there now"
        )
