"""What must fit together where images are augmented, repeated and held: a line a fault."""

from collections.abc import Iterator

from unmask.config.recipes import Augment, augment_of, mixed_together
from unmask.config.schema import Config


def of_images(config: Config) -> Iterator[str]:
    stages = dict.fromkeys(["pretrain", *config.worked_stages])
    augments = {
        name: augment for name in stages if (augment := augment_of(config, name))
    }
    for name, augment in augments.items():
        yield from _augment(
            config, "augment" if name == "pretrain" else f"{name}.augment", augment
        )
        if augment.repeats > 1:
            yield from _repeats(config, name, augment)
    used = [
        augment for name, augment in augments.items() if name in config.worked_stages
    ]
    yield from _nvjpeg(config, used)
    if (
        config.data.decode == "scaled"
        and used
        and all(augment.repeats > 1 for augment in used)
    ):
        yield (
            "data.decode = scaled: images that are seen in several views are decoded"
            " whole; use data.decode=fast"
        )
    if (
        config.data.in_memory == "device"
        and used
        and all(augment.by_image for augment in used)
    ):
        yield (
            "data.in_memory = device: each stage changes single images (augment.policy,"
            " augment.jitter), which is done on the CPU; set data.in_memory=true"
        )


def _nvjpeg(config: Config, used: list[Augment]) -> Iterator[str]:
    """It decodes files, on a GPU, of grey or three colours, and what changes single images does so on the CPU."""
    data, fault = config.data, "data.decode = nvjpeg"
    if data.decode != "nvjpeg":
        return
    if config.trainer.accelerator == "cpu":
        yield (
            f"{fault}: trainer.accelerator=cpu has no GPU to decode on; use"
            " data.decode=auto"
        )
    if data.channels not in (1, 3):
        yield (
            f"{fault}: JPEGs have 1 or 3 channels, not {data.channels}; use"
            " data.decode=auto"
        )
    if used and all(augment.by_image for augment in used):
        yield (
            f"{fault}: each stage changes single images on the CPU (policy, jitter);"
            " use data.decode=auto"
        )


def _augment(config: Config, name: str, augment: Augment) -> Iterator[str]:
    low, high = augment.scale
    if low > high:
        yield (
            f"{name}.scale = {list(augment.scale)}: the smaller share comes first; try"
            f" [{high}, {low}]"
        )
    if augment.policy and config.data.channels not in (1, 3):
        yield (
            f"{name}.policy = {augment.policy}: RandAugment knows 1 or 3 channels, not"
            f" {config.data.channels}"
        )
    if augment.jitter and config.data.channels not in (1, 3):
        yield (
            f"{name}.jitter = {augment.jitter:g}: colours are of 1 or 3 channels, not"
            f" {config.data.channels}"
        )
    if augment.jitter and augment.policy:
        yield (
            f"{name}.jitter = {augment.jitter:g}: RandAugment changes colours already;"
            f" set {name}.policy=null"
        )


def _repeats(config: Config, name: str, augment: Augment) -> Iterator[str]:
    """Views of an image come in one batch, are not the same, and are not mixed with each other."""
    recipe, key = (
        getattr(config, name),
        ("augment" if name == "pretrain" else f"{name}.augment"),
    )
    fault, batch = f"{key}.repeats = {augment.repeats}", recipe.batch_size
    if batch % augment.repeats:
        yield (
            f"{fault}: {name}.batch_size={batch} is not a multiple of it; pick one that"
            " divides the batch"
        )
    elif name != "pretrain" and not augment.changes:
        yield (
            f"{fault}: {key} changes nothing, and all views of an image would be the"
            " same; set it to 1"
        )
    elif (
        getattr(recipe, "mixup", 0) or getattr(recipe, "cutmix", 0)
    ) and mixed_together(batch) // 2 % augment.repeats:
        half = mixed_together(batch) // 2
        yield (
            f"{fault}: images would be mixed with views of their own; pick a divisor of"
            f" {half}"
        )
