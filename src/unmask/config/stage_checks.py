"""What each stage asks of the config, and values that would change nothing."""

from collections.abc import Iterator, Sequence

from unmask.config.augmentation import indivisible_group_size, stage_repeats
from unmask.config.image_checks import check_reading
from unmask.config.recipe_parts import check_recipe
from unmask.config.recipes import (
    ENCODER_STAGES,
    FINE_TUNING_STAGES,
    FROZEN_STAGES,
    LABELLED_STAGES,
    STAGES,
)
from unmask.config.schema import Config

# seconds that W&B may take at the end of a stage, for each minute of
# trainer.timeout_minutes: the other processes wait for so long
FINISH_SECONDS_PER_TIMEOUT_MINUTE = 30.0
SHARDED_ON_ONE_DEVICE = (
    "trainer.sharded = true: one device holds the whole model, so that there is nothing"
    " to shard; set trainer.devices=2 or more, or trainer.sharded=false"
)


def check_stages(config: Config) -> Iterator[str]:
    """Yield an error message for each stage that cannot run as configured."""
    yield from _check_batches(config)
    for kind in config.used_stages:
        for error in check_recipe(getattr(config, kind, None)):
            yield f"{kind}: {error}"
        yield from STAGES[kind].check(config)
    yield from _check_groups(config)


def _check_batches(config: Config) -> Iterator[str]:
    """Yield an error message where micro-batches do not split a batch evenly."""
    micro_batch, split = config.trainer.micro_batch, config.trainer.split
    # a frozen encoder runs without gradients, in parts of any size
    for stage in config.used_stages:
        batch = getattr(getattr(config, stage, None), "batch_size", None)
        if not batch:
            continue
        if stage in FROZEN_STAGES:
            yield from check_batch_norm(stage, batch)
            continue
        if micro_batch and micro_batch < batch and batch % micro_batch:
            yield (
                f"trainer.micro_batch = {micro_batch}: {stage}.batch_size={batch} is"
                " not a multiple of it; pick one that divides the batch"
            )
        if split > batch:
            yield (
                f"trainer.split = {split}: {stage}.batch_size={batch} has fewer images;"
                f" set trainer.split={batch} or less"
            )


def check_batch_norm(stage: str, batch: int, num_processes: int = 1) -> list[str]:
    """Return an error message where a head's BatchNorm gets a batch of one image.

    Each process normalises its share of the batch alone.
    """
    least = 2 * num_processes
    if stage not in FROZEN_STAGES or batch >= least:
        return []
    shares = f" on each of {num_processes} processes" if num_processes > 1 else ""
    return [
        f"{stage}.batch_size = {batch}: the head's BatchNorm needs two images or more"
        f"{shares}; set {stage}.batch_size={least} or more"
    ]


def _check_groups(config: Config) -> Iterator[str]:
    """Yield an error message where a micro-batch parts images that stay together."""
    micro_batch = config.trainer.micro_batch
    if not micro_batch:
        return
    for stage in config.used_stages:
        recipe = getattr(config, stage, None)
        batch = getattr(recipe, "batch_size", 1)
        repeats = stage_repeats(config, stage)
        group = indivisible_group_size(recipe, batch, repeats)
        does = (
            f"keeps {group} views together"
            if repeats > 1
            else f"mixes {group} images with each other"
        )
        if micro_batch % group:
            yield (
                f"trainer.micro_batch = {micro_batch}: {stage} {does}; take a multiple"
                f" of {group}"
            )


def check_unused(config: Config) -> Iterator[str]:
    """Yield an error message for each value that would change nothing."""
    active = set(config.active_stages)
    yield from check_reading(config.data, config.source)
    starts_anew = all(
        STAGES[kind].role == "measurement" and STAGES[kind].parent != "pretraining"
        for kind in active
    )
    if config.init_from and starts_anew:
        yield (
            f"init_from = {config.init_from}: scratch starts from random weights; add a"
            " stage that uses it"
        )
    for key, value in (("weights", config.weights), ("grid", config.weights_grid)):
        if value and not config.init_from:
            yield (
                f"{key} = {value}: says how the file of init_from is read, and there is"
                f" none; set init_from=FILE or {key}=null"
            )
    if config.labels and not set(FINE_TUNING_STAGES) & active:
        yield (
            f"labels = {config.labels}: none of the stages {config.stages} uses it; add"
            " finetune or scratch, or set knn.labels, linear_probe.labels or"
            " attentive_probe.labels"
        )
    if config.rerun and config.adopt:
        yield (
            "rerun = true, adopt = true: one makes results anew and the other keeps"
            " them; leave out one of them"
        )
    yield from _check_devices(config)


def _check_devices(config: Config) -> Iterator[str]:
    """Yield an error message for what one device, or several, cannot do."""
    trainer, wandb = config.trainer, config.logger.wandb
    is_one_device = trainer.devices == trainer.nodes == 1
    if trainer.precision == "auto" and trainer.nodes > 1:
        yield (
            f"trainer.precision = auto: trainer.nodes={trainer.nodes} machines may"
            " differ; set 32-true or bf16-mixed"
        )
    if trainer.sharded and is_one_device:
        yield SHARDED_ON_ONE_DEVICE
    if trainer.sharded and not set(ENCODER_STAGES) & set(config.active_stages):
        yield (
            f"trainer.sharded = true: none of the stages {config.stages} trains an"
            " encoder, and frozen encoders are not sharded; set trainer.sharded=false"
        )
    if trainer.sharded and config.watch.probe:
        yield (
            f"watch.probe = {config.watch.probe}: a sharded encoder is not probed while"
            " it trains; leave it out, and add knn to stages"
        )
    longest = FINISH_SECONDS_PER_TIMEOUT_MINUTE * trainer.timeout_minutes
    is_online = wandb is not None and wandb.mode == "online"
    if wandb and is_online and not is_one_device and wandb.finish_seconds > longest:
        yield (
            f"logger.wandb.finish_seconds = {wandb.finish_seconds:g}: the other"
            f" processes do not wait that long; set it to {longest:g} or less, or raise"
            " trainer.timeout_minutes"
        )


def check_labels(
    config: Config, num_classes: int, notes: Sequence[str] = ()
) -> list[str]:
    """Return an error message for stages that need labels on data that has none.

    notes: what is odd about the data; it may tell why there are none.
    """
    if num_classes > 1:
        return []
    stages = [stage for stage in config.stages if stage in LABELLED_STAGES]
    layout = "one class folder" if num_classes else "no class folders"
    where = (
        f"need labels, and the images in data.root={config.data.root} lie in {layout};"
        " sort them into one folder a class, or"
    )
    why = "".join(f" ({note})" for note in notes)
    errors = []
    if stages:
        names = ", ".join(stages)
        errors.append(
            f"stages = {config.stages}: {names} {where} run stages=[pretrain]{why}"
        )
    if config.watch.probe:
        errors.append(
            f"watch.probe = {config.watch.probe}: features {where} leave it out{why}"
        )
    return errors
