"""A stage's model and the loss of one batch, to be built where there are no values: for counting what they cost."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.config.schema import FROZEN, Config
from unmask.encoder import Encoder
from unmask.heads import (
    AttentiveFeatures,
    Classifier,
    Features,
    FineTuneFeatures,
    Given,
    RawPixels,
    train_last_blocks,
)
from unmask.mae import MAE
from unmask.masking import Masking
from unmask.training.build import build_encoder, build_mae

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Outline:
    """after: the parts that come after the encoder (decoder or head); inputs: one batch of so many images."""

    model: nn.Module
    after: tuple[nn.Module, ...]
    inputs: Callable[[int], Inputs]
    loss: Callable[[Inputs], Tensor]


def outline(config: Config, kind: str, start: str, classes: int) -> Outline:
    """Of the stage `kind` that starts from `start`, as `unmask.training.stages` trains it."""
    if kind == "pretrain":
        return pretraining(config)
    return classifying(
        classifier(config, kind, start, classes), _shape(config, kind, start), classes
    )


def pretraining(config: Config) -> Outline:
    model: MAE = build_mae(config)
    patches, visible = math.prod(config.grid), config.num_visible
    everywhere = config.loss_on == "all"

    def inputs(batch: int) -> Inputs:
        images = torch.empty(batch, config.data.channels, *config.data.image_size)
        order = torch.empty(batch, patches, dtype=torch.long)
        return (
            images,
            order[:, :visible],
            order[:, visible:],
            torch.empty(batch, patches, dtype=torch.bool),
        )

    def loss(given: Inputs) -> Tensor:
        # targets and loss are float32
        predicted = model(given[0], Masking(*given[1:]), everywhere).float()
        return F.mse_loss(predicted, torch.empty_like(predicted))

    return Outline(model, (model.decoder,), inputs, loss)


def classifier(config: Config, kind: str, start: str, classes: int) -> Classifier:
    """The classifier of a measuring stage; of a probe whose features are computed once, what is trained on them."""
    recipe, probe = getattr(config, kind), kind in FROZEN
    pixels = config.data.channels * math.prod(config.stage_image_size(kind))
    features: Features | FineTuneFeatures | AttentiveFeatures | RawPixels | Given
    if computed_once(config, kind):
        features = Given(pixels if start == "pixels" else config.model.width)
    elif start == "pixels":
        features = RawPixels(pixels)
    else:
        encoder = stage_encoder(config, kind)
        if kind == "attentive_probe":
            features = AttentiveFeatures(encoder, recipe.heads, config.seed)
        elif kind == "linear_probe":
            features = Features(encoder, recipe.pool).requires_grad_(False)
        else:
            features = FineTuneFeatures(encoder, recipe.pool)
            train_last_blocks(features, getattr(recipe, "blocks", math.inf))
    return Classifier(features, classes, probe, config.seed)


def stage_encoder(config: Config, kind: str) -> Encoder:
    """On the grid of that stage's images."""
    return build_encoder(config, config.grid_of(config.stage_image_size(kind)))


def computed_once(config: Config, kind: str) -> bool:
    """Frozen features of images that no augmentation changes."""
    return kind == "linear_probe" and not config.linear_probe.augment.changes


def _shape(config: Config, kind: str, start: str) -> tuple[int, ...]:
    """Of one input: an image, or the features that were computed once."""
    size = config.stage_image_size(kind)
    if computed_once(config, kind):
        return (
            (
                config.data.channels * math.prod(size)
                if start == "pixels"
                else config.model.width
            ),
        )
    return (config.data.channels, *size)


def classifying(model: Classifier, shape: tuple[int, ...], classes: int) -> Outline:
    def inputs(batch: int) -> Inputs:
        return torch.empty(batch, *shape), torch.empty(batch, classes)

    def loss(given: Inputs) -> Tensor:
        return F.cross_entropy(model(given[0]).float(), given[1])

    attention = getattr(model.features, "attention", None)
    return Outline(
        model,
        (model.head, *([attention] if attention is not None else [])),
        inputs,
        loss,
    )


def encoding(config: Config, kind: str) -> Outline:
    """An encoder's features of whole images, without any head."""
    encoder = stage_encoder(config, kind).requires_grad_(False)
    shape = (config.data.channels, *config.stage_image_size(kind))
    return Outline(
        encoder,
        (),
        lambda batch: (torch.empty(batch, *shape),),
        lambda given: encoder(given[0]).square().mean(),
    )
