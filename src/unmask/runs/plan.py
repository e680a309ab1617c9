"""From a config to its stages: what runs, from which weights, under which fingerprint."""

from collections import Counter
from dataclasses import dataclass

from unmask.data.annotations import list_source
from unmask.data.classes import CLASSES
from unmask.data.listing import Listing
from unmask.runs.checks import ConfigError, needs_labels
from unmask.runs.fingerprint import StageSpec, measure_science, pretrain_science
from unmask.runs.schema import LABELLED, Config

# The numbers are the content's: a changed package or archive is another data set
IDENTITIES = {"mnist5k": "mnist5k-1", "cifar10": "cifar10-c58f3010", "cifar100": "cifar100-eb9058c3"}
SIZES = {"mnist5k": [400] * 10, "cifar10": [5000] * 10, "cifar100": [500] * 100}  # training images of each class
# Which controls say something: fine-tuning a random encoder is what `scratch` is, and pixels have no blocks or tokens
CONTROLS = {
    "knn": ("random", "pixels"), "linear_probe": ("random", "pixels"), "attentive_probe": ("random",),
    "partial_finetune": ("random",), "finetune": ("pixels",),
}  # fmt: skip


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


def make_plan(config: Config) -> Plan:
    """Raises ConfigError where the data is missing or lacks the labels that a stage needs."""
    listing = None
    if config.data.source not in IDENTITIES:
        try:
            listing = list_source(config.data.source, str(config.data.root), config.data.holdout)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    identity = listing.identity if listing else IDENTITIES[config.data.source]
    classes = listing.classes if listing else CLASSES[config.data.source]
    if faults := needs_labels(config, len(classes)) + _label_counts(config, listing):
        raise ConfigError("\n".join(faults))
    return Plan(config, tuple(_stages(config, identity)), classes, listing)


def _label_counts(config: Config, listing: Listing | None) -> list[str]:
    """A class must have its share of the labels that a stage asks for."""
    sizes = Counter(label for _, label in listing.train).values() if listing else SIZES[config.data.source]
    classes, smallest = len(sizes), min(sizes)
    asked = {name: getattr(config, name).labels for name in config.stages if name in LABELLED}
    too_few = [
        f"labels={labels}: {name} needs at least one label of each of {classes} classes; at least labels={classes}"
        for name, labels in asked.items()
        if labels and labels < classes
    ]
    return too_few + [
        f"labels={labels} asks {name} for {-(-labels // classes)} images of each of {classes} classes, and the "
        f"smallest has {smallest}; at most labels={smallest * classes}, or labels=null for all"
        for name, labels in asked.items()
        if labels and -(-labels // classes) > smallest
    ]


def _stages(config: Config, identity: str) -> list[StageSpec]:
    """Each measurement, then its controls; a stage's parent comes before it, asked for or not."""
    pretrain = StageSpec("pretrain", "random", pretrain_science(config, identity))
    planned: list[StageSpec] = []
    for kind in config.stages:
        if kind != "scratch" and pretrain not in planned:
            planned.append(pretrain)
        for start in _starts(kind, config):
            parent = pretrain if start == "pretrained" else None
            planned.append(StageSpec(kind, start, measure_science(kind, start, config, identity), parent))
    return list(dict.fromkeys(planned))


def _starts(kind: str, config: Config) -> list[str]:
    """Which weights a measurement is made on."""
    if kind == "pretrain":
        return []
    if kind == "scratch":
        return ["random"]
    return ["pretrained", *(control for control in config.controls if control in CONTROLS[kind])]
