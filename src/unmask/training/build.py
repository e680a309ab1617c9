"""From a checked config to the objects it names."""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unmask.config.groups import PCATarget, TokensTarget
from unmask.config.recipes import Augment as AugmentConfig
from unmask.config.schema import Config, Data
from unmask.data.augment.crops import Augment
from unmask.data.images.decoding import Decode
from unmask.data.listing.listing import Listing
from unmask.data.loading.batch import Format
from unmask.data.loading.folders import Files, folder_splits
from unmask.data.loading.in_memory import InMemory, cifar, mnist5k, placed
from unmask.data.loading.module import EVAL_BATCH, Loading
from unmask.decoder import Decoder, LinearHead
from unmask.encoder import Encoder
from unmask.exchange.dalle import read_dalle
from unmask.initialisation import initialise
from unmask.mae import MAE
from unmask.stages.fingerprint import chosen_decode
from unmask.stages.plan import Plan
from unmask.targets import AnyTarget, Tokens
from unmask.tasks.pretrain import AnyMasking
from unmask.tokenizers import DALLE_CODES, DallETokenizer, SmallTokenizer


def construct(spec: dict[str, Any], **more: Any) -> Any:
    """Call the `_target_` of a part with its values. The schema has allowed only this project's constructors."""
    values = dict(spec)
    module, name = values.pop("_target_").rsplit(".", 1)
    assert module.startswith("unmask."), module
    return getattr(import_module(module), name)(**values, **more)


def build_encoder(
    config: Config, grid: tuple[int, int] | None = None, seed: int | None = None
) -> Encoder:
    """The configured encoder, on the data's grid or another; with a seed its weights are those its MAE starts from."""
    model, data = config.model, config.data
    assert data.patch_size is not None
    encoder = Encoder(
        grid or config.grid,
        data.patch_size,
        data.channels,
        model.width,
        model.depth,
        model.heads,
        model.mlp_ratio,
    )
    if seed is not None:
        initialise(nn.ModuleDict({"encoder": encoder}), seed)
    return encoder


def outputs(config: Config) -> int:
    """How many values the decoder predicts for a patch."""
    if isinstance(config.target, TokensTarget):
        return DALLE_CODES if config.tokenizer_file else config.tokenizer.codes
    assert config.data.patch_size is not None
    return build_target(config).outputs(config.data.patch_size, config.data.channels)


def build_mae(config: Config) -> MAE:
    """The configured autoencoder, which predicts what the target asks for."""
    decoder, with_tokens = config.decoder, config.encoder.mask_tokens
    return MAE(
        build_encoder(config),
        (
            Decoder(
                config.grid,
                config.model.width,
                outputs(config),
                decoder.width,
                decoder.depth,
                decoder.heads,
                mask_tokens=not with_tokens,
            )
            if decoder.depth
            else LinearHead(config.model.width, outputs(config))
        ),
        config.seed,
        with_tokens,
    )


def build_masking(config: Config) -> AnyMasking:
    return construct(
        config.masking.model_dump(by_alias=True),
        grid=config.grid,
        mask_ratio=config.mask_ratio,
    )


def build_target(config: Config) -> AnyTarget:
    """The configured target; one that is fitted on images still has to be given what was found."""
    spec, data = config.target.model_dump(by_alias=True), config.data
    if isinstance(config.target, PCATarget):
        return construct(spec, patch_size=data.patch_size, channels=data.channels)
    if isinstance(config.target, TokensTarget):
        return Tokens(build_tokenizer(config).eval().requires_grad_(False))
    return construct(spec)


def build_tokenizer(config: Config) -> SmallTokenizer | DallETokenizer:
    """DALL-E's where its file is given, else the small one as it is before its training."""
    if config.tokenizer_file:
        form = build_format(config)
        return DallETokenizer(
            read_dalle(Path(config.tokenizer_file).expanduser()),
            config.grid,
            form.mean,
            form.std,
        )
    return small_tokenizer(config)


def small_tokenizer(config: Config) -> SmallTokenizer:
    data, small = config.data, config.tokenizer
    assert data.patch_size is not None
    return SmallTokenizer(
        data.patch_size, data.channels, small.codes, small.width, small.seed
    )


STANDARD = 224  # pixels
# of trainer.timeout_minutes: a worker that hangs is told as such, before the watchdog
# ends all
LOADERS_SHARE = 0.8
PLAIN = AugmentConfig(
    crop="none",
    scale=(1.0, 1.0),
    flip=False,
    policy=None,
    erasing=0.0,
    jitter=0.0,
    repeats=1,
)


def build_augment(augment: AugmentConfig, eval_crop: float) -> Augment:
    return Augment(
        augment.crop,
        augment.scale,
        augment.flip,
        eval_crop,
        augment.policy,
        augment.erasing,
        augment.jitter,
        augment.repeats,
    )


def build_format(config: Config, shape: tuple[int, int] | None = None) -> Format:
    data = config.data
    assert data.mean is not None
    assert data.std is not None
    larger = shape is not None and shape != data.image_size and max(shape) > STANDARD
    # fine-tuned above 224 pixels, images are measured whole: the official port's crop
    # ratio is 1 there
    return Format(
        shape or data.image_size,
        tuple(data.mean),
        tuple(data.std),
        1.0 if larger else data.eval_crop,
    )


def build_loading(config: Config) -> Loading:
    trainer = config.trainer
    at_once = max(
        1, min(EVAL_BATCH, trainer.micro_batch or EVAL_BATCH) // trainer.split
    )
    patience = LOADERS_SHARE * 60 * trainer.timeout_minutes
    return Loading(config.data.num_workers, at_once, patience, config.data.threads)


def load_splits(plan: Plan) -> tuple[InMemory | Files, InMemory | Files]:
    """(train, validation) images and labels."""
    data = plan.config.data
    train, val = splits_of(data, plan.listing, chosen_decode(data))
    if isinstance(train, InMemory) and isinstance(val, InMemory):
        return placed(train, val, data.in_memory, training_device(plan.config))
    return train, val


def splits_of(
    data: Data, listing: Listing | None, decode: Decode
) -> tuple[InMemory | Files, InMemory | Files]:
    """(train, validation), in this process's memory or still to be read. listing: of data that is no known set."""
    if listing:
        held = None if data.in_memory is None else bool(data.in_memory)
        # who asks how files are decoded wants them to be
        held = held if data.decode == "auto" else False
        return folder_splits(listing, data.channels, data.image_size, held, decode)
    if data.source == "mnist5k":
        return mnist5k()
    assert data.source == "cifar10" or data.source == "cifar100"
    return cifar(data.source, Path(data.root or "data"), data.download)


def training_device(config: Config) -> torch.device:
    """Of this process."""
    gpu = config.trainer.accelerator != "cpu" and torch.cuda.is_available()
    return (
        torch.device("cuda", torch.cuda.current_device())
        if gpu
        else torch.device("cpu")
    )
