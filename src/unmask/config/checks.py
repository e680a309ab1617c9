"""One line a fault: what came, what is allowed, what to do."""

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import ValidationError

from unmask.config.groups import PCATarget
from unmask.config.image_checks import of_images
from unmask.config.keys import known_keys, suggestion
from unmask.config.recipes import kept_together, repeats_of
from unmask.config.schema import (
    CHANNELS,
    ENCODING,
    FROZEN,
    LABELLED,
    Config,
    Container,
    Data,
)
from unmask.config.secrets import masked, refused

ELSEWHERE = "/not/here"
SMALLEST = 8  # pixels of a side that the corruptions can be made on
ALONE = (
    "trainer.sharded = true: one device holds the whole model, there is nobody to share"
    " it with; set trainer.devices=2 or more, or trainer.sharded=false"
)
# seconds of each trainer.timeout_minutes that the end of a dashboard may take
LONGEST_END = 30.0


class ConfigError(ValueError):
    """Faults of a config, one a line; the process ends with exit code 2."""


def elsewhere(raw: dict[str, Any]) -> dict[str, Any]:
    """Folders that are not given stand for ones elsewhere: prices and comparisons do not look into them."""
    for part in ("data", "robustness"):
        if raw[part]["root"] is None and raw[part]["source"] != "mnist5k":
            raw[part]["root"] = ELSEWHERE
    return raw


def check(raw: dict[str, Any]) -> Config:
    """The typed config. Raises ConfigError with every fault that was found."""
    refuse_secrets(raw)
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(described(error)) from None
    faults = [
        *_geometry(config),
        *_targets(config),
        *_sizes(config),
        *_stages(config),
        *of_images(config),
    ]
    faults += _ignored(config)
    if faults:
        raise ConfigError("\n".join(faults))
    return config


def refuse_secrets(raw: Any) -> None:
    """Raises ConfigError where a value holds a password or a token."""
    if faults := list(refused(raw)):
        raise ConfigError("\n".join(faults))


def check_stored(raw: dict[str, Any]) -> Config:
    """The config that a checkpoint carries. Raises ConfigError where another version of this project wrote it."""
    try:
        return check(raw)
    except ConfigError as error:
        first = str(error).splitlines()[0]
        raise ConfigError(
            f"the config in this checkpoint is another version's ({first}); use the"
            " version that trained it"
        ) from None


def described(error: ValidationError) -> str:
    """A line for each fault."""
    return masked("\n".join(dict.fromkeys(_line(fault) for fault in error.errors())))


def _line(fault: Any) -> str:
    path = ".".join(str(part) for part in fault["loc"] if "unmask." not in str(part))
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        return (
            f"{path} = {fault['input']!r}: there is no such"
            f" key{suggestion(path, known_keys())}"
        )
    if fault["type"] == "value_error":
        return (
            f"{path}: {message}"
            if path and not message.startswith(("data", path))
            else message
        )
    if fault["type"] == "missing":
        return f"{path}: missing; give it a value"
    if fault["type"].startswith("bool"):
        message = "give true or false"
    if path.startswith("data.in_memory."):  # a line for each of its types
        path, message = "data.in_memory", "give true, false, device or null"
    if path == "data.source" and fault["input"] in get_args(Container):
        message = (
            "it names a set of images; what they lie in is another key:"
            f" source={fault['input']}"
        )
    if path == "mask_ratio":
        message += (
            " (a share of the patches between 0 and 1, both excluded; the paper's is"
            " 0.75)"
        )
    return f"{path} = {fault['input']!r}: {message}"


def _geometry(config: Config) -> Iterator[str]:
    patch = config.data.patch_size
    assert patch is not None
    sizes = {"data": config.data.image_size} | {
        stage: config.stage_image_size(stage) for stage in config.worked_stages
    }
    for name, size in sizes.items():
        for side in size:
            if side % patch:
                nearest = max(patch, round(side / patch) * patch)
                divisors = [
                    p for p in range(2, side) if side % p == 0 and p <= 2 * patch
                ]
                yield (
                    f"{name}.image_size = {side}: not a multiple of"
                    f" data.patch_size={patch}; nearest image size: {nearest}"
                    + (
                        f", patch sizes that divide {side}: {divisors}"
                        if divisors
                        else ""
                    )
                )
                return
    if config.decoder.depth == 0 and not config.encoder.mask_tokens:
        yield (
            "decoder.depth = 0: a linear head sees one token, and those of hidden"
            " patches know nothing of the image unless the encoder carries them; add"
            " encoder.mask_tokens=true"
        )
    patches = config.grid[0] * config.grid[1]
    kept = config.num_visible
    if patches < 2:
        yield f"data.patch_size = {patch}: the image is one patch; pick a smaller one"
    elif not 0 < kept < patches:
        yield (
            f"mask_ratio = {config.mask_ratio}: keeps {kept} of {patches} patches; "
            f"pick one that keeps between 1 and {patches - 1}"
        )
    if config.masking.target_.endswith("GridMasking") and config.mask_ratio != 0.75:
        yield (
            f"mask_ratio = {config.mask_ratio}: masking=grid keeps one patch of each 2"
            " x 2 cell; set mask_ratio=0.75"
        )
    if config.masking.target_.endswith("GridMasking") and patches < 2:
        yield (
            f"masking=grid needs at least 2 patches, the grid has {patches}; pick a"
            " smaller data.patch_size"
        )


def _targets(config: Config) -> Iterator[str]:
    """What must fit a target that is neither pixels nor normalised pixels."""
    if config.init_from and config.encoder.mask_tokens and "pretrain" in config.stages:
        yield (
            f"init_from = {config.init_from}: no such weights have mask tokens of the"
            " encoder; set it to null"
        )
    patch, channels = config.data.patch_size, config.data.channels
    assert patch is not None
    pixels = patch**2 * channels
    if (
        isinstance(config.target, PCATarget)
        and (config.target.components or 0) > pixels
    ):
        yield (
            f"target.components = {config.target.components}: a patch of {patch} x"
            f" {patch} pixels and {channels} channels has {pixels} coefficients; the"
            f" paper takes an eighth: target.components={max(1, pixels // 8)}"
        )
    if config.tokenizer_file and channels not in (1, 3):
        yield (
            f"tokenizer.file = {config.tokenizer_file}: DALL-E's encoder takes 1 or 3"
            f" channels, not {channels}"
        )


def of_reading(data: Data, container: Container) -> Iterator[str]:
    """How images are read that do not lie so, or are held in memory anyway."""
    if data.decode != "auto" and (data.source in CHANNELS or data.in_memory):
        where = str(data.in_memory).lower()
        held = (
            f"data={data.source} is"
            if data.source in CHANNELS
            else f"data.in_memory={where}: images are"
        )
        yield (
            f"data.decode = {data.decode}: {held} decoded once into memory; set"
            " data.decode=auto"
        )
    if container == "raw" and data.decode in ("scaled", "nvjpeg"):
        yield (
            f"data.decode = {data.decode}: raw pixels are not decoded; set"
            " data.decode=auto or reference"
        )
    if data.threads and data.source in CHANNELS:
        yield (
            f"data.threads = {data.threads}: data={data.source} is held in memory; set"
            " data.threads=null"
        )
    if data.root and data.source == "mnist5k":
        yield (
            f"data.root = {data.root}: data=mnist5k comes with the install; add"
            " data=image_folder or imagenet"
        )
    if container != "folder" and data.source != "image_folder":
        yield (
            f"source = {container}: data={data.source} comes in no such container; set"
            " source=folder"
        )
    if container in ("folder", "raw") and "://" in str(data.root):
        yield (
            f"source = {container}: it must lie in a local folder, not in"
            f" data.root={data.root}; set source=litdata, webdataset or parquet"
        )


def _ignored(config: Config) -> Iterator[str]:
    """Values that would change nothing."""
    yield from of_reading(config.data, config.source)
    if config.init_from and set(config.worked_stages) <= {"scratch", "robustness"}:
        yield (
            f"init_from = {config.init_from}: scratch starts from random weights; add a"
            " stage that uses it"
        )
    if config.labels and not {"partial_finetune", "finetune", "scratch"} & set(
        config.worked_stages
    ):
        yield (
            f"labels = {config.labels}: none of the stages {config.stages} uses it; add"
            " finetune or scratch, or set knn.labels, linear_probe.labels or"
            " attentive_probe.labels"
        )
    alone = config.trainer.devices == config.trainer.nodes == 1
    if config.trainer.sharded and alone:
        yield ALONE
    if config.trainer.sharded and not set(ENCODING) & set(config.worked_stages):
        yield (
            f"trainer.sharded = true: none of the stages {config.stages} trains an"
            " encoder, and frozen ones are not cut; set trainer.sharded=false"
        )
    wandb, trainer = config.logger.wandb, config.trainer
    if (
        wandb
        and wandb.mode == "online"
        and not alone
        and wandb.finish_seconds > LONGEST_END * trainer.timeout_minutes
    ):
        yield (
            f"logger.wandb.finish_seconds = {wandb.finish_seconds:g}: the other"
            " processes would not wait so long; at most"
            f" {LONGEST_END * trainer.timeout_minutes:g}, or raise"
            " trainer.timeout_minutes"
        )
    smallest, hidden = (
        getattr(config.masking, "min_patches", None),
        config.grid[0] * config.grid[1] - config.num_visible,
    )
    if smallest and smallest > hidden:
        yield (
            f"masking.min_patches = {smallest}: only {hidden} patches are hidden; pick"
            " a smaller block"
        )


def _sizes(config: Config) -> Iterator[str]:
    for name, part in (("model", config.model), ("decoder", config.decoder)):
        if part.width % part.heads:
            fitting = [h for h in range(1, part.width + 1) if part.width % h == 0]
            near = sorted(fitting, key=lambda h: abs(h - part.heads))[:4]
            yield (
                f"{name}.heads = {part.heads}: does not divide"
                f" {name}.width={part.width}; heads that do:"
                f" {', '.join(map(str, sorted(near)))}"
            )
        if part.width % 4:
            nearest = max(4, round(part.width / 4) * 4)
            yield (
                f"{name}.width = {part.width}: sine-cosine positions need a multiple of"
                f" 4; nearest: {nearest}"
            )
    # of these the frozen encoder is cut
    for name in set(config.worked_stages) - set(FROZEN):
        recipe = getattr(config, name, None)
        batch, micro = getattr(recipe, "batch_size", None), config.trainer.micro_batch
        if batch and micro and micro < batch and batch % micro:
            yield (
                f"trainer.micro_batch = {micro}: {name}.batch_size={batch} is not a"
                " multiple of it; pick one that divides the batch"
            )
        if batch and config.trainer.split > batch:
            yield (
                f"trainer.split = {config.trainer.split}: {name}.batch_size={batch} has"
                " no more images than that"
            )


def _stages(config: Config) -> Iterator[str]:
    """What each stage asks of the model and of the device."""
    blocks, depth = config.partial_finetune.blocks, config.model.depth
    if "partial_finetune" in config.worked_stages and blocks not in (
        0.5,
        *range(depth + 1),
    ):
        yield (
            f"partial_finetune.blocks = {blocks:g}: give 0, 0.5 (the last MLP) or a"
            f" whole number up to {depth}"
        )
    if (
        "robustness" in config.stages
        and min(config.stage_image_size(config.robustness.of)) < SMALLEST
    ):
        yield (
            f"robustness: corruptions need images of {SMALLEST} x {SMALLEST} pixels or"
            " more"
        )
    heads, width = config.attentive_probe.heads, config.model.width
    if "attentive_probe" in config.stages and width % heads:
        yield f"attentive_probe.heads = {heads}: does not divide model.width={width}"
    micro = config.trainer.micro_batch
    for name in config.worked_stages:
        recipe = getattr(config, name, None)
        repeats = repeats_of(config, name)
        unit = kept_together(recipe, getattr(recipe, "batch_size", 1), repeats)
        does = (
            f"keeps {unit} views together"
            if repeats > 1
            else f"mixes {unit} images with each other"
        )
        if micro and micro % unit:
            yield (
                f"trainer.micro_batch = {micro}: {name} {does}; take a multiple of"
                f" {unit}"
            )


def needs_labels(config: Config, classes: int) -> list[str]:
    """Faults of stages that need labels on data that has none."""
    wanting = [stage for stage in config.stages if stage in LABELLED]
    if classes > 1 or not wanting:
        return []
    return [
        f"stages = {config.stages}: {', '.join(wanting)} need labels, and the images in"
        f" data.root={config.data.root} lie in"
        f" {'one class folder' if classes else 'no class folders'}; sort them into one"
        " folder a class, or run stages=[pretrain]"
    ]
