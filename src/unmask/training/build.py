"""From a checked config to the objects that it names: models, targets, loaders."""

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unmask.config.architecture import CrossDecoder
from unmask.config.architecture import Decoder as OwnDecoder
from unmask.config.augmentation import Augment
from unmask.config.data import Data
from unmask.config.foreign import is_foreign, load_part
from unmask.config.schema import Config
from unmask.data.augment.crops import Augmentation
from unmask.data.augment.own import AnyAugmentation
from unmask.data.listing.listing import Listing
from unmask.data.loading.batch import ImageFormat
from unmask.data.loading.folders import StoredImages, splits_from_listing
from unmask.data.loading.in_memory import (
    InMemory,
    load_arrays,
    place_on_device,
)
from unmask.data.loading.module import EVAL_BATCH, LoaderSettings
from unmask.decoder import AnyDecoder, LinearHead
from unmask.encoder import AnyEncoder
from unmask.exchange.dalle import read_dalle
from unmask.initialisation import initialise
from unmask.mae import MAE
from unmask.masking import AnyMasking
from unmask.optim import MakeOptimizer
from unmask.randomness import make_key
from unmask.stages.fingerprint import resolve_decode
from unmask.stages.plan import Plan
from unmask.targets import AnyTarget
from unmask.tasks.own_task import AnyTask
from unmask.tasks.pretrain import Pretrain
from unmask.tokenizers import DALLE_CODES, DallETokenizer, SmallTokenizer
from unmask.training.values import drop_values, with_values

# of trainer.timeout_minutes: loaders give up on a worker that hangs, and name it,
# before the watchdog ends the run without knowing why
LOADER_TIMEOUT_SHARE = 0.8
# samplers that take a grid and a mask ratio alone, by the names of conf/masking
SAMPLERS = {
    "random": "unmask.masking.RandomMasking",
    "block": "unmask.masking.BlockMasking",
    "grid": "unmask.masking.GridMasking",
}


def construct(spec: dict[str, Any], **more: Any) -> Any:
    """Call the constructor that `_target_` names with the other values of the spec."""
    values = dict(spec)
    # the schema has allowed those of this project, and files of the user's
    return load_part(values.pop("_target_"))(**values, **more)


def asked_of(target: str, offered: dict[str, Any]) -> dict[str, Any]:
    """Return those of the offered values that a constructor has parameters for."""
    parameters = inspect.signature(load_part(target)).parameters
    return {name: value for name, value in offered.items() if name in parameters}


def build_encoder(
    config: Config, grid: tuple[int, int] | None = None, seed: int | None = None
) -> AnyEncoder:
    """Return the configured encoder.

    grid: patches in height and width; those of the data by default. seed: initialise
    it as the autoencoder of that seed starts.
    """
    model = config.model
    data = config.data
    assert data.patch_size is not None
    spec = model.model_dump(by_alias=True, exclude={"name", "patch_size_at_224"})
    spec |= {
        "grid": grid or config.grid,
        "patch_size": data.patch_size,
        "channels": data.channels,
    }
    encoder = _construct_seeded(spec, config.seed, "encoder")
    if seed is not None:
        # random numbers depend on a parameter's name, which starts with "encoder."
        initialise(nn.ModuleDict({"encoder": encoder}), seed)
    return encoder


def _construct_seeded(spec: dict[str, Any], seed: int, part: str) -> Any:
    """Construct a module; what its constructor draws follows from the run's seed."""
    if not is_foreign(spec["_target_"]):
        return construct(spec)
    with with_values(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(make_key(seed, "init", part).low)
        module = construct(spec)
    # the check of foreign parts says what it lacks where it is no module
    if isinstance(module, nn.Module):
        drop_values(module)
    return module


def build_mae(config: Config) -> MAE:
    """Return the configured autoencoder, which predicts what the target asks for."""
    encoder, decoder = build_encoder(config), build_decoder(config)
    # ablation of Table 1c: mask tokens enter the encoder instead of the decoder
    return MAE(encoder, decoder, config.seed, config.encoder.mask_tokens)


def build_decoder(config: Config) -> AnyDecoder:
    """Return the configured decoder, which predicts what the target asks for."""
    decoder = config.decoder
    num_outputs = decoder_outputs(config)
    if isinstance(decoder, OwnDecoder) and not decoder.depth:
        return LinearHead(config.model.width, num_outputs)
    spec = decoder.model_dump(by_alias=True)
    spec |= {
        "grid": config.grid,
        "in_width": config.model.width,
        "out_dim": num_outputs,
    }
    if isinstance(decoder, CrossDecoder):
        # the task chooses what is predicted
        del spec["prediction_ratio"]
        depth = config.model.depth if spec.pop("inter_block") else None
        return construct(spec, encoder_depth=depth)
    spec["mask_tokens"] = not config.encoder.mask_tokens
    return _construct_seeded(spec, config.seed, "decoder")


def build_pretraining(config: Config, make_optimizer: MakeOptimizer) -> Pretrain:
    """Return the module of a pretraining; what its target is fitted on is missing."""
    return Pretrain(
        build_mae(config),
        build_masking(config),
        build_target(config),
        config.seed,
        make_optimizer,
        config.loss_on == "all",
        count_predicted(config),
    )


def decoder_outputs(config: Config) -> int:
    """Return how many values the decoder predicts for a patch."""
    if config.target.takes_tokenizer:
        # without the tokenizer itself, whose file may be large
        return DALLE_CODES if config.tokenizer_file else config.tokenizer.codes
    data = config.data
    assert data.patch_size is not None
    with with_values():
        return build_target(config).num_outputs(data.patch_size, data.channels)


def build_masking(config: Config) -> AnyMasking:
    """Return the configured masking on the data's grid of patches."""
    return construct(
        config.masking.model_dump(by_alias=True),
        grid=config.grid,
        mask_ratio=config.mask_ratio,
    )


def count_visible(config: Config) -> int:
    """Return how many patches the sampler leaves visible: it is asked."""
    with with_values():
        masking = build_masking(config)(make_key(0, "count"), torch.arange(1), 0)
    return masking.visible_BV.shape[1]


def count_predicted(config: Config) -> int | None:
    """Return how many hidden patches a training step predicts; None: all of them."""
    if not isinstance(config.decoder, CrossDecoder):
        return None
    return config.count_predicted(count_visible(config))


def build_target(config: Config) -> AnyTarget:
    """Return the configured target.

    One that is fitted on images (a PCA, a small dVAE) still lacks what was fitted.
    """
    spec = config.target.model_dump(by_alias=True)
    data = config.data
    if config.target.takes_tokenizer:
        spec["tokenizer"] = build_tokenizer(config).eval().requires_grad_(False)
    offered = {
        "patch_size": data.patch_size,
        "channels": data.channels,
        "grid": config.grid,
    }
    # what is typed goes first
    return construct(asked_of(config.target.target_, offered) | spec)


def build_tokenizer(config: Config) -> SmallTokenizer | DallETokenizer:
    """Return DALL-E's tokenizer where a file is named, else an untrained small one."""
    if not config.tokenizer_file:
        return build_small_tokenizer(config)
    image_format = build_format(config)
    return DallETokenizer(
        read_dalle(Path(config.tokenizer_file)),
        config.grid,
        image_format.mean,
        image_format.std,
    )


def build_small_tokenizer(config: Config) -> SmallTokenizer:
    """Return the small dVAE as it is before its training."""
    data = config.data
    small = config.tokenizer
    assert data.patch_size is not None
    return SmallTokenizer(
        data.patch_size, data.channels, small.codes, small.width, small.seed
    )


def build_augment(augment: Augment, data: Data) -> Augmentation:
    """Return the augmentation of training images, with evaluation's centre crop."""
    return Augmentation(
        augment.crop,
        augment.scale,
        augment.flip,
        data.eval_crop,
        augment.policy,
        augment.erasing,
        augment.jitter,
        augment.repeats,
        data.eval_view == "port",
        build_own_augmentation(augment),
    )


def build_own_augmentation(augment: Augment) -> AnyAugmentation | None:
    """Return the augmentation of the user's, if there is one."""
    if augment.target_ is None:
        return None
    return construct({"_target_": augment.target_, **(augment.model_extra or {})})


def build_task(config: Config) -> AnyTask:
    """Return the user's task, which the stage `task` runs."""
    assert config.task.target_ is not None
    return construct(
        {"_target_": config.task.target_, **(config.task.model_extra or {})}
    )


def build_format(config: Config, shape: tuple[int, int] | None = None) -> ImageFormat:
    """Return size, statistics and evaluation crop of images.

    shape: height and width of a stage that differs from the data's.
    """
    return data_format(config.data, shape)


def data_format(data: Data, shape: tuple[int, int] | None = None) -> ImageFormat:
    """Return size, statistics and evaluation crop of a data set's images."""
    assert data.mean is not None
    assert data.std is not None
    shape = shape or data.image_size
    return ImageFormat(
        shape,
        tuple(data.mean),
        tuple(data.std),
        data.eval_crop_at(shape),
        data.eval_view == "port",
    )


def build_loading(config: Config) -> LoaderSettings:
    """Return workers, threads, evaluation batch and timeout of the loaders."""
    trainer = config.trainer
    largest = min(EVAL_BATCH, trainer.micro_batch or EVAL_BATCH)
    eval_batch = max(1, largest // trainer.split)
    timeout_seconds = LOADER_TIMEOUT_SHARE * 60 * trainer.timeout_minutes
    return LoaderSettings(
        config.data.num_workers, eval_batch, timeout_seconds, config.data.threads
    )


def load_splits(plan: Plan) -> tuple[InMemory | StoredImages, InMemory | StoredImages]:
    """Return training and validation images with labels, on this rank's device."""
    data = plan.config.data
    train, val = open_splits(data, plan.listing)
    if isinstance(train, InMemory) and isinstance(val, InMemory):
        return place_on_device(train, val, data.in_memory, training_device(plan.config))
    return train, val


def open_splits(
    data: Data, listing: Listing | None
) -> tuple[InMemory | StoredImages, InMemory | StoredImages]:
    """Return (training, validation) images, in memory or to be read when needed.

    listing: which images there are; None for the known data sets, which are loaded.
    """
    if listing:
        in_memory = None if data.in_memory is None else bool(data.in_memory)
        # images in memory are never decoded again: with data.decode they are read
        if data.decode != "auto":
            in_memory = False
        return splits_from_listing(
            listing,
            data.channels,
            data.image_size,
            in_memory,
            resolve_decode(data),
            data.ranges,
        )
    return load_arrays(data.source, Path(data.root or "data"), data.download)


def training_device(config: Config) -> torch.device:
    """Return the device on which this process trains."""
    if config.trainer.accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())
