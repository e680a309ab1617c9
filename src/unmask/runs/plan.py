"""From a config to its stages: what runs, from which weights, under which fingerprint."""

from dataclasses import dataclass

from unmask.data.listing import Listing, list_images
from unmask.runs.checks import ConfigError, needs_labels
from unmask.runs.fingerprint import StageSpec, measure_science, pretrain_science
from unmask.runs.schema import Config

# The numbers are the content's: a changed package or archive is another data set
IDENTITIES = {"mnist5k": "mnist5k-1", "cifar10": "cifar10-c58f3010", "cifar100": "cifar100-eb9058c3"}
CLASSES = {"mnist5k": 10, "cifar10": 10, "cifar100": 100}


@dataclass(frozen=True)
class Plan:
    """The stages of a run in order, with what is known of the data before any image is read."""

    config: Config
    stages: tuple[StageSpec, ...]
    num_classes: int
    listing: Listing | None


def make_plan(config: Config) -> Plan:
    """Raises ConfigError where the data is missing or lacks the labels that a stage needs."""
    listing = None
    if config.data.source == "image_folder":
        try:
            listing = list_images(str(config.data.root), config.data.holdout)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    identity = listing.identity if listing else IDENTITIES[config.data.source]
    num_classes = len(listing.classes) if listing else CLASSES[config.data.source]
    if faults := needs_labels(config, num_classes):
        raise ConfigError("\n".join(faults))
    return Plan(config, tuple(_stages(config, identity)), num_classes, listing)


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
    """Which weights a measurement is made on; fine-tuning a random encoder is what `scratch` is."""
    if kind == "pretrain":
        return []
    if kind == "scratch":
        return ["random"]
    controls = [c for c in config.controls if not (kind == "finetune" and c == "random")]
    return ["pretrained", *controls]
