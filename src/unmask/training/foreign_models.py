"""Encoders and decoders of the user's are tried on two images before a stage starts."""

from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unmask.config.checks import ConfigError
from unmask.config.schema import Config
from unmask.decoder import AnyDecoder
from unmask.encoder import AnyEncoder
from unmask.mae import MAE
from unmask.masking import Masking
from unmask.randomness import make_key
from unmask.training import build
from unmask.training.flops import count_flops
from unmask.training.outline import pretraining_outline

NUM_IMAGES = 2
ENCODER_MEMBERS = (
    *("grid", "patch_size", "channels", "width", "class_tokens"),
    *("blocks", "norm", "pos_embed", "unnormalised_tokens"),
)


def check_encoder(config: Config) -> None:
    """Raise ValueError unless the encoder turns images into tokens of its width."""
    encoder: Any = build.build_encoder(config)
    _check_members(encoder, ENCODER_MEMBERS)
    assert isinstance(encoder, AnyEncoder)
    images_BCHW, masking = _example(config)
    classes, width = encoder.class_tokens, encoder.width
    if width != config.model.width:
        raise ValueError(f"its width is {width}, and model.width={config.model.width}")
    rows, cols = config.grid
    positions = (1, classes + rows * cols, width)
    if tuple(encoder.pos_embed.shape) != positions:
        raise ValueError(
            f"its pos_embed has the shape {[*encoder.pos_embed.shape]}, and not"
            f" {[*positions]}: class tokens and patches"
        )
    mask_tokens_BMD = torch.zeros(*masking.hidden_BM.shape, width)
    for visible, hidden, tokens in (
        (None, None, rows * cols),
        (masking.visible_BV, None, masking.visible_BV.shape[1]),
        (masking.visible_BV, mask_tokens_BMD, rows * cols),
    ):
        expected = (NUM_IMAGES, classes + tokens, width)
        for call in (encoder, encoder.unnormalised_tokens):
            _check_shape(call(images_BCHW, visible, hidden), expected, "tokens")
    _check_training(build.build_mae(config), images_BCHW, masking, "encoder")


def check_decoder(config: Config) -> None:
    """Raise ValueError unless the decoder predicts each patch that it is asked for."""
    _check_members(build.build_decoder(config), ("reads_blocks",))
    images_BCHW, masking = _example(config)
    model = build.build_mae(config)
    assert isinstance(model.decoder, AnyDecoder)
    outputs = build.decoder_outputs(config)
    expected = (*masking.hidden_BM.shape, outputs)
    _check_shape(model(images_BCHW, masking), expected, "predictions")
    if config.loss_on == "all":
        rows, cols = config.grid
        expected = (NUM_IMAGES, rows * cols, outputs)
        predicted = model(images_BCHW, masking, predict_visible=True)
        _check_shape(predicted, expected, "predictions with predict_visible=True")
    _check_training(model, images_BCHW, masking, "decoder")


def check_countable(config: Config) -> None:
    """Raise ConfigError where the model cannot be counted without values."""
    try:
        count_flops(partial(pretraining_outline, config))
    except RuntimeError as error:
        raise ConfigError(
            f"model, decoder: what they cost is counted without values, which yours"
            f" read ({str(error).partition(chr(10))[0]}); leave out .item(), bool() and"
            " the like in forward, and register tensors as buffers; src/train.py"
            " trains it as it is"
        ) from error


def _example(config: Config) -> tuple[Float[Tensor, "B C H W"], Masking]:
    """Return two images of noise and their masks."""
    data = config.data
    images_BCHW = torch.rand(NUM_IMAGES, data.channels, *data.image_size)
    ids_B = torch.arange(NUM_IMAGES)
    return images_BCHW, build.build_masking(config)(make_key(0, "try"), ids_B, 0)


def _check_members(part: Any, names: tuple[str, ...]) -> None:
    if not isinstance(part, nn.Module):
        raise ValueError(f"it makes a {type(part).__name__}, not a torch.nn.Module")
    if missing := [name for name in names if not hasattr(part, name)]:
        raise ValueError(f"it lacks {', '.join(missing)}")


def _check_shape(values: Any, expected: tuple[int, ...], what: str) -> None:
    shape = getattr(values, "shape", None)
    if shape is None:
        raise ValueError(f"its {what} are a {type(values).__name__}, not a tensor")
    if tuple(shape) != expected:
        raise ValueError(f"its {what} have the shape {[*shape]}, not {[*expected]}")
    if not values.isfinite().all():
        raise ValueError(f"its {what} are not finite")


def _check_training(
    model: MAE, images_BCHW: Float[Tensor, "B C H W"], masking: Masking, part: str
) -> None:
    """Raise ValueError where a trained parameter has no part in the prediction.

    Ranks would wait for its gradient.
    """
    model(images_BCHW, masking).square().sum().backward()
    module = cast(nn.Module, getattr(model, part))
    idle = [
        name
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    if idle:
        raise ValueError(
            f"{', '.join(idle[:3])} get no gradient; use them, or set their"
            " requires_grad to False"
        )
