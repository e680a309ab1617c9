"""What must fit together where images are read, augmented and repeated."""

from collections.abc import Iterator

from unmask.config.augmentation import (
    Augment,
    augment_key,
    mixing_group_size,
    stage_augment,
)
from unmask.config.data import Container, Data
from unmask.config.datasets import find_dataset
from unmask.config.schema import Config


def check_reading(data: Data, container: Container) -> Iterator[str]:
    """Yield an error message for each setting that these images make no use of."""
    arrays = data.arrays
    if data.decode != "auto" and (arrays or data.in_memory):
        in_memory = str(data.in_memory).lower()
        images = (
            f"data={data.source} is"
            if arrays
            else f"data.in_memory={in_memory}: images are"
        )
        yield (
            f"data.decode = {data.decode}: {images} decoded once into memory; set"
            " data.decode=auto"
        )
    if container == "raw" and data.decode in ("scaled", "nvjpeg"):
        yield (
            f"data.decode = {data.decode}: raw pixels are not decoded; set"
            " data.decode=auto or reference"
        )
    if data.threads and arrays:
        yield (
            f"data.threads = {data.threads}: data={data.source} is held in memory; set"
            " data.threads=null"
        )
    if data.root and arrays and arrays.is_installed:
        yield (
            f"data.root = {data.root}: data={data.source} comes with the install; add"
            " data=image_folder or imagenet"
        )
    if container != "folder" and not find_dataset(data.source).is_folder:
        yield (
            f"source = {container}: data={data.source} comes in no such container; set"
            " source=folder"
        )
    if container in ("folder", "raw") and "://" in str(data.root):
        yield (
            f"source = {container}: it must lie in a local folder, not in"
            f" data.root={data.root}; set source=litdata, webdataset or parquet"
        )


def check_images(config: Config) -> Iterator[str]:
    """Yield an error message where augmentation, repeats and reading do not fit."""
    augments = {}
    # the keys of `augment` are checked even where nothing is pretrained
    for stage in dict.fromkeys(["pretrain", *config.active_stages]):
        augment = stage_augment(config, stage)
        if augment:
            augments[stage] = augment
    for stage, augment in augments.items():
        yield from _check_augment(config, augment_key(stage), augment)
        if augment.repeats > 1:
            yield from _check_repeats(config, stage, augment)
    active = [
        augment for stage, augment in augments.items() if stage in config.active_stages
    ]
    yield from _check_nvjpeg(config, active)
    if not active:
        return
    # one decoding serves all views of an image
    if config.data.decode == "scaled" and all(a.repeats > 1 for a in active):
        yield (
            "data.decode = scaled: images that are seen in several views are decoded"
            " whole; use data.decode=fast"
        )
    if config.data.in_memory == "device" and all(a.works_per_image for a in active):
        yield (
            "data.in_memory = device: each stage changes single images (augment.policy,"
            " jitter, _target_), which is done on the CPU; set data.in_memory=true"
        )


def _check_nvjpeg(config: Config, active: list[Augment]) -> Iterator[str]:
    """Yield an error message where JPEGs cannot be decoded on the GPU."""
    data, problem = config.data, "data.decode = nvjpeg"
    if data.decode != "nvjpeg":
        return
    if config.trainer.accelerator == "cpu":
        yield (
            f"{problem}: trainer.accelerator=cpu has no GPU to decode on; use"
            " data.decode=auto"
        )
    if data.channels not in (1, 3):
        yield (
            f"{problem}: JPEGs have 1 or 3 channels, not {data.channels}; use"
            " data.decode=auto"
        )
    if active and all(augment.works_per_image for augment in active):
        yield (
            f"{problem}: each stage changes single images on the CPU (augment.policy,"
            " jitter, _target_); use data.decode=auto"
        )


def _check_augment(config: Config, key: str, augment: Augment) -> Iterator[str]:
    low, high = augment.scale
    channels = config.data.channels
    if low > high:
        yield (
            f"{key}.scale = {list(augment.scale)}: the smaller fraction comes first;"
            f" try [{high}, {low}]"
        )
    if augment.policy and channels not in (1, 3):
        yield (
            f"{key}.policy = {augment.policy}: RandAugment knows 1 or 3 channels, not"
            f" {channels}; set {key}.policy=null"
        )
    if augment.jitter and channels not in (1, 3):
        yield (
            f"{key}.jitter = {augment.jitter:g}: colour jitter knows 1 or 3 channels,"
            f" not {channels}; set {key}.jitter=0"
        )
    if augment.jitter and augment.policy:
        yield (
            f"{key}.jitter = {augment.jitter:g}: RandAugment changes colours already;"
            f" set {key}.policy=null or {key}.jitter=0"
        )


def _check_repeats(config: Config, stage: str, augment: Augment) -> Iterator[str]:
    """Yield an error message where the views of an image do not fit into a batch.

    They must come in one batch, differ, and not be mixed with each other.
    """
    recipe, key = getattr(config, stage), augment_key(stage)
    problem, batch = f"{key}.repeats = {augment.repeats}", recipe.batch_size
    if batch % augment.repeats:
        yield (
            f"{problem}: {stage}.batch_size={batch} is not a multiple of it; pick one"
            " that divides the batch"
        )
        return
    # masks differ between views, so that pretraining needs no augmentation
    if stage != "pretrain" and not augment.changes_images:
        yield (
            f"{problem}: {key} changes nothing, and all views of an image would be the"
            f" same; set {key}.repeats=1"
        )
        return
    if getattr(recipe, "mixup", 0) or getattr(recipe, "cutmix", 0):
        # timm mixes a group with itself in reverse order: views of one image that lie
        # across its middle would meet
        half = mixing_group_size(batch) // 2
        if half % augment.repeats:
            yield (
                f"{problem}: images would be mixed with views of their own; pick a"
                f" divisor of {half}"
            )
