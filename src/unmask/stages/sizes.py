"""How many images and steps a stage has: of known data sets, and of folders."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from unmask.config.augmentation import stage_repeats
from unmask.config.checks import ConfigError
from unmask.config.datasets import DatasetSize, known_size
from unmask.config.recipes import is_stepped
from unmask.config.robustness import Corruption
from unmask.config.schema import Config
from unmask.stages.plan import list_dataset


def dataset_size(config: Config, dataset: str) -> DatasetSize:
    """Return the size of the data: a known one, or that of the folder.

    dataset: the name that data=... took. Raises ConfigError where the folder is not
    here and nothing else tells.
    """
    data = config.data
    # ImageNet is a folder of images like any other, known by its name alone
    is_imagenet = (data.source, dataset) == ("image_folder", "imagenet")
    name = dataset if is_imagenet else data.source
    if size := known_size(name):
        return size
    is_url = "://" in str(data.root)
    if not is_url and not Path(str(data.root)).is_dir():
        raise ConfigError(
            f"data={dataset}: data.root={data.root} is not here, and nobody knows how"
            " many images it holds; add images=100000 classes=10, or a data.root that"
            " is here"
        )
    listing = list_dataset(data, config.source)
    # only arrays have none, and their sizes are known
    assert listing is not None
    return DatasetSize(len(listing.train), len(listing.val), len(listing.classes))


@dataclass(frozen=True)
class ImageCounts:
    """How many images a stage processes, over all epochs.

    trained: forward and backward; evaluated: forward only (validation, features).
    """

    trained: int
    evaluated: int


def count_images(config: Config, kind: str, size: DatasetSize) -> ImageCounts:
    """Count the images of a stage as its loaders deliver them."""
    recipe: Any = getattr(config, kind)
    if kind == "robustness":
        return ImageCounts(0, _count_corrupted(config, size))
    used = num_used_images(recipe, size.train)
    # kNN, fitted targets and exact probes take each image once; to solve a head on
    # stored features is next to nothing beside that
    if not is_stepped(recipe):
        return ImageCounts(0, used + size.val)
    num_steps, per_epoch = step_counts(config, kind, size.train)
    epochs_between = -(-recipe.epochs // config.watch.times)
    # and once more at the end
    validations = num_steps // per_epoch // epochs_between + 1
    trained = num_steps * stage_batch_size(config, kind, size.train)
    return ImageCounts(trained, validations * size.val)


def step_counts(config: Config, kind: str, images: int) -> tuple[int, int]:
    """Return (all steps, steps of an epoch) of a stage with that many training images.

    An epoch has whole batches only: what is left over waits for the next one.
    """
    recipe: Any = getattr(config, kind)
    views = num_used_images(recipe, images) * stage_repeats(config, kind)
    per_epoch = views // stage_batch_size(config, kind, images)
    total = recipe.epochs * per_epoch
    return min(config.stop_after or total, total), per_epoch


def num_used_images(recipe: Any, images: int) -> int:
    """Return how many training images a stage uses: `labels`, where it is set."""
    return min(getattr(recipe, "labels", None) or images, images)


def stage_batch_size(config: Config, kind: str, images: int) -> int:
    """Return the batch size of a stage with that many training images."""
    recipe = getattr(config, kind)
    used = num_used_images(recipe, images)
    return fit_batch_size(recipe.batch_size, used, stage_repeats(config, kind))


def fit_batch_size(batch_size: int, images: int, repeats: int = 1) -> int:
    """Return the batch size, cut down where there are fewer views than that."""
    if batch_size <= images * repeats:
        return batch_size
    # even, as mixup pairs images
    used = images - images % 2 if images > 1 else 1
    return used * repeats


def _count_corrupted(config: Config, size: DatasetSize) -> int:
    """Count the images of the robustness stage: each corruption at each severity."""
    recipe = config.robustness
    # other folders are taken to be as large as the validation set
    images = min(recipe.images or size.val, size.val)
    if recipe.source == "folder":
        return images
    corruptions = recipe.corruptions or get_args(Corruption)
    return images * len(corruptions) * len(recipe.severities)
