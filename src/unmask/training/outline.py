"""A stage's model and the loss of one batch, without values: to count what they cost.

Built on torch's meta device, where tensors have shapes and nothing is computed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.config.schema import Config
from unmask.heads import PrecomputedFeatures
from unmask.masking import Masking
from unmask.training.build import build_mae, count_predicted, count_visible
from unmask.training.prepare import build_classifier, build_features

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Outline:
    """Hold a stage's model with what a training step does to it.

    after_encoder: the parts that follow the encoder, a decoder or a head. inputs: gives
    a batch of so many images.
    """

    model: nn.Module
    after_encoder: tuple[nn.Module, ...]
    inputs: Callable[[int], Inputs]
    loss: Callable[[Inputs], Tensor]


def build_outline(config: Config, kind: str, start: str, num_classes: int) -> Outline:
    """Return the outline of a stage as `unmask.training.prepare` builds it.

    start: the weights it starts from, as in a StageSpec.
    """
    if kind == "pretrain":
        return pretraining_outline(config)
    return _classifier_outline(config, kind, start, num_classes)


def pretraining_outline(config: Config) -> Outline:
    """Return the autoencoder with a loss on the patches that it must predict."""
    model = build_mae(config)
    num_patches = math.prod(config.grid)
    num_visible = count_visible(config)
    num_predicted = count_predicted(config)
    end = None if num_predicted is None else num_visible + num_predicted
    predicts_all = config.loss_on == "all"

    # the values of patch indices change no shape: any will do
    def inputs(batch: int) -> Inputs:
        images_BCHW = torch.empty(batch, config.data.channels, *config.data.image_size)
        order_BL = torch.empty(batch, num_patches, dtype=torch.long)
        hidden_BL = torch.empty(batch, num_patches, dtype=torch.bool)
        return (
            images_BCHW,
            order_BL[:, :num_visible],
            order_BL[:, num_visible:end],
            hidden_BL,
        )

    def loss(batch: Inputs) -> Tensor:
        images_BCHW, *masking = batch
        # targets and losses are float32 whatever the precision of the model
        predicted = model(images_BCHW, Masking(*masking), predicts_all).float()
        return F.mse_loss(predicted, torch.empty_like(predicted))

    return Outline(model, (cast(nn.Module, model.decoder),), inputs, loss)


def _classifier_outline(
    config: Config, kind: str, start: str, num_classes: int
) -> Outline:
    """Return the classifier with cross-entropy on soft labels, as mixup makes them."""
    model = build_classifier(config, kind, start, num_classes)
    shape: tuple[int, ...] = (config.data.channels, *config.stage_image_size(kind))
    if isinstance(model.features, PrecomputedFeatures):
        shape = (model.features.width,)

    def inputs(batch: int) -> Inputs:
        return torch.empty(batch, *shape), torch.empty(batch, num_classes)

    def loss(batch: Inputs) -> Tensor:
        images, targets_BK = batch
        return F.cross_entropy(model(images), targets_BK)

    after_encoder: list[nn.Module] = [model.head]
    # attention pooling is trained, too, and is no part of the encoder
    attention = getattr(model.features, "attention", None)
    if attention is not None:
        after_encoder.append(attention)
    return Outline(model, tuple(after_encoder), inputs, loss)


def features_outline(config: Config, kind: str) -> Outline:
    """Return a frozen encoder on whole images, without a head, as kNN uses it."""
    model = build_features(config, kind, "pretrained")
    shape = (config.data.channels, *config.stage_image_size(kind))

    def inputs(batch: int) -> Inputs:
        return (torch.empty(batch, *shape),)

    def loss(batch: Inputs) -> Tensor:
        # FLOP counters want a scalar; elementwise work counts for nothing
        return model(batch[0]).square().mean()

    return Outline(model, (), inputs, loss)
