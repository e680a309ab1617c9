"""How many images a stage sees: sizes of well-known data, or of a folder that is here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from unmask.config.checks import ConfigError
from unmask.config.recipes import Corruption, repeats_of
from unmask.config.schema import Config
from unmask.data.sources import list_source


@dataclass(frozen=True)
class Size:
    """Images of the two splits, and classes."""

    train: int
    val: int
    classes: int


# By the name that data=... takes. ImageNet-1K: Russakovsky et al. 2015, Table 2; CIFAR:
# Krizhevsky 2009;
# iNaturalist: github.com/visipedia/inat_comp, a README a year; Places205: Zhou et al.
# 2014; Places365: its devkit
KNOWN = {
    "mnist5k": Size(4_000, 1_000, 10),
    "cifar10": Size(50_000, 10_000, 10),
    "cifar100": Size(50_000, 10_000, 100),
    "imagenet": Size(1_281_167, 50_000, 1_000),
    "inat2017": Size(579_184, 95_986, 5_089),
    "inat2018": Size(437_513, 24_426, 8_142),
    "inat2019": Size(265_213, 3_030, 1_010),
    "places205": Size(2_448_873, 20_500, 205),
    "places365": Size(1_803_460, 36_500, 365),
}


def size_of(config: Config, chosen: str, given: Size | None = None) -> Size:
    """given: what the user says; chosen: the name that data=... took.

    Raises ConfigError where nobody knows and the folder is not here.
    """
    if given:
        return given
    if chosen in KNOWN:
        return KNOWN[chosen]
    root = Path(str(config.data.root)).expanduser()
    if not root.is_dir() and "://" not in str(config.data.root):
        raise ConfigError(
            f"data={chosen}: data.root={config.data.root} is not here, and nobody knows"
            " how many images it holds; add images=100000 classes=10, or a data.root"
            " that is here"
        )
    try:
        listing = list_source(
            config.data.source,
            str(config.data.root),
            config.data.holdout,
            config.source,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return Size(len(listing.train), len(listing.val), len(listing.classes))


@dataclass(frozen=True)
class Seen:
    """Images that a stage trains on, all epochs together, and that it only looks at (validation, features)."""

    trained: int
    looked_at: int


def seen(config: Config, kind: str, size: Size) -> Seen:
    """As the loaders have it: whole batches alone, a batch cut to an even number where there are fewer images."""
    recipe: Any = getattr(config, kind)
    if kind == "robustness":
        return Seen(0, _corrupted(config, size))
    count = drawn(recipe, size.train)
    if not hasattr(recipe, "epochs"):
        return Seen(0, count + size.val)
    made, per_epoch = steps(config, kind, size.train)
    # and once more at the end
    rounds = made // per_epoch // -(-recipe.epochs // config.watch.times) + 1
    return Seen(made * batch_of(config, kind, size.train), rounds * size.val)


def steps(config: Config, kind: str, images: int) -> tuple[int, int]:
    """How many a stage makes that has so many training images to take from, and how many an epoch has."""
    recipe: Any = getattr(config, kind)
    per_epoch = (
        drawn(recipe, images)
        * repeats_of(config, kind)
        // batch_of(config, kind, images)
    )
    total = recipe.epochs * per_epoch
    return min(config.stop_after or total, total), per_epoch


def drawn(recipe: Any, images: int) -> int:
    """How many of the training images a stage takes: so many labels, where it asks for few."""
    return min(getattr(recipe, "labels", None) or images, images)


def batch_of(config: Config, kind: str, images: int) -> int:
    """The batch of a stage that has so many training images to take from."""
    recipe = getattr(config, kind)
    return fitting(recipe.batch_size, drawn(recipe, images), repeats_of(config, kind))


def fitting(batch: int, count: int, repeats: int = 1) -> int:
    """The batch that is taken of so many views of `count` images; an even one where there are fewer than asked: mixup
    pairs images.
    """
    if batch <= count * repeats:
        return batch
    return (count - count % 2 if count > 1 else 1) * repeats


def _corrupted(config: Config, size: Size) -> int:
    """Each corruption at each severity of so many validation images; other folders are taken to be as large."""
    recipe = config.robustness
    images = min(recipe.images or size.val, size.val)
    kinds = len(recipe.corruptions or get_args(Corruption))
    return images * (1 if recipe.source == "folder" else kinds * len(recipe.severities))
