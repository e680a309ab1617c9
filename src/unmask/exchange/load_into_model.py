"""Load weights into models of this project, strictly.

Only positions may change, where the model's grid of patches is another one.
"""

import math
from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from unmask.config.schema import Resampling
from unmask.decoder import Decoder
from unmask.encoder import AnyEncoder
from unmask.exchange.fit import check_fit
from unmask.exchange.kernels import shape_text
from unmask.exchange.sizes import Geometry, Stack
from unmask.exchange.weights import Report, Weights
from unmask.heads import Classifier, Features, FineTuneFeatures
from unmask.mae import MAE
from unmask.storage.checkpoints import strip_prefix


def resample_positions(
    pos_embed: Float[Tensor, "1 T D"],
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    resampling: Resampling,
) -> Float[Tensor, "1 U D"]:
    """Resample positions to another grid, bicubically.

    Positions of class tokens are kept. The same grid changes no bit. resampling: port
    gives the numbers of the official code (`interpolate_pos_embed`) and of Hugging
    Face; timm's filter is antialiased, and another cubic.
    """
    if old_grid == new_grid:
        return pos_embed
    classes = pos_embed.shape[1] - math.prod(old_grid)
    if resampling == "timm":
        return resample_abs_pos_embed(
            pos_embed, list(new_grid), list(old_grid), num_prefix_tokens=classes
        )
    image_1DHW = pos_embed[:, classes:].transpose(1, 2).unflatten(2, old_grid)
    resampled_1DHW = F.interpolate(
        image_1DHW.float(), new_grid, mode="bicubic", align_corners=False
    )
    patches_1LD = resampled_1DHW.flatten(2).transpose(1, 2).to(pos_embed.dtype)
    return torch.cat([pos_embed[:, :classes], patches_1LD], dim=1)


def load_encoder(
    encoder: AnyEncoder, weights: Weights, resampling: Resampling = "port"
) -> Report:
    """Load the encoder's weights, with positions resampled where the grid differs.

    Raises ValueError, with the overrides that would fit, where more than the grid
    differs.
    """
    check_fit(weights.geometry, _geometry_of(encoder))
    state, report = _fit_positions("encoder", weights, encoder, resampling)
    missing = {}
    # A classifier that normalises after pooling has no norm here; 1 and 0 are its
    # identity.
    if "norm.weight" not in state:
        state["norm.weight"] = torch.ones(encoder.width)
        state["norm.bias"] = torch.zeros(encoder.width)
        missing["encoder.norm.weight"] = "set to 1"
        missing["encoder.norm.bias"] = "set to 0"
    cast(nn.Module, encoder).load_state_dict(state, strict=True)
    return Report(report.matched, report.reshaped, missing)


def load_pretrained(
    encoder: AnyEncoder,
    state: dict[str, Tensor],
    grid: tuple[int, int],
    resampling: Resampling,
) -> None:
    """Load the encoder of a pretraining of this project, strictly.

    state: the state dict of its checkpoint. grid: the grid it was trained on.
    """
    encoder_state = strip_prefix(state, "model.encoder.")
    positions = resample_positions(
        encoder_state["pos_embed"], grid, encoder.grid, resampling
    )
    cast(nn.Module, encoder).load_state_dict(encoder_state | {"pos_embed": positions})


def load_mae(model: MAE, weights: Weights, resampling: Resampling = "port") -> Report:
    """Load encoder and decoder.

    Raises ValueError as load_encoder does, and where there is no decoder.
    """
    if weights.decoder is None or not isinstance(model.decoder, Decoder):
        raise ValueError(
            f"these weights ({weights.layout}) have no decoder; load them into an"
            " encoder instead"
        )
    # Before anything is loaded: a refused model must stay as it was.
    check_fit(weights.geometry, _geometry_of(model.encoder, model.decoder))
    first = load_encoder(model.encoder, weights, resampling)
    state, second = _fit_positions("decoder", weights, model.encoder, resampling)
    model.decoder.load_state_dict(state, strict=True)
    return Report(
        first.matched + second.matched,
        {**first.reshaped, **second.reshaped},
        first.missing,
    )


def load_classifier(model: Classifier, weights: Weights) -> Report:
    """Load encoder and head.

    Raises ValueError as load_encoder does, and where the heads are of different kinds.
    """
    features = model.features
    if not isinstance(features, Features | FineTuneFeatures):
        raise ValueError(
            f"a classifier on {type(features).__name__} has no encoder to load into"
        )
    _check_head(model, features, weights)
    report = load_encoder(features.encoder, weights)
    head = weights.head or {}
    state = {}
    for name in model.state_dict():
        # The model's features.fc_norm is the head's fc_norm.
        stored_name = name.removeprefix("features.")
        if stored_name in head:
            state[name] = head[stored_name]
    result = model.load_state_dict(state, strict=False)
    # Nothing but the encoder, which is loaded already.
    assert all(name.startswith("features.encoder.") for name in result.missing_keys), (
        result
    )
    return Report(report.matched + tuple(head), report.reshaped, report.missing)


def _check_head(
    model: Classifier, features: Features | FineTuneFeatures, weights: Weights
) -> None:
    ours = {
        name.removeprefix("features."): value
        for name, value in model.state_dict().items()
        if not name.startswith("features.encoder.")
    }
    theirs = weights.head or {}
    our_shapes = {name: value.shape for name, value in ours.items()}
    their_shapes = {name: value.shape for name, value in theirs.items()}
    if our_shapes == their_shapes and weights.pool == features.pool:
        return
    given = ", ".join(f"{name} {shape_text(value)}" for name, value in theirs.items())
    wanted = ", ".join(f"{name} {shape_text(value)}" for name, value in ours.items())
    raise ValueError(
        f"the file's head has {given or 'no tensors'} (pool={weights.pool}); this model"
        f" needs {wanted} (pool={features.pool})"
    )


def _fit_positions(
    part: Literal["encoder", "decoder"],
    weights: Weights,
    encoder: AnyEncoder,
    resampling: Resampling,
) -> tuple[dict[str, Tensor], Report]:
    """Return the part's tensors, with positions on the encoder's grid."""
    tensors = weights.encoder if part == "encoder" else weights.decoder or {}
    old = tensors["pos_embed"]
    new = resample_positions(old, weights.geometry.grid, encoder.grid, resampling)
    state = tensors | {"pos_embed": new}
    if weights.geometry.grid == encoder.grid:
        return state, Report(tuple(f"{part}.{name}" for name in tensors))
    matched = tuple(f"{part}.{name}" for name in tensors if name != "pos_embed")
    change = f"{shape_text(old)} -> {shape_text(new)}, resampled as by {resampling}"
    return state, Report(matched, {f"{part}.pos_embed": change})


def _geometry_of(encoder: AnyEncoder, decoder: Decoder | None = None) -> Geometry:
    stack = _stack_of(decoder.blocks) if decoder else None
    return Geometry(
        encoder.channels,
        encoder.patch_size,
        encoder.grid,
        _stack_of(encoder.blocks),
        stack,
        encoder.class_tokens,
    )


def _stack_of(blocks: nn.ModuleList) -> Stack:
    first = blocks[0]
    assert isinstance(first, Block)
    width = first.mlp.fc1.in_features
    hidden = first.mlp.fc1.out_features
    ratio = hidden / width
    # as the block itself was laid out: it truncates width * ratio
    if int(width * ratio) < hidden:
        ratio = math.nextafter(ratio, math.inf)
    return Stack(width, len(blocks), first.attn.num_heads, ratio)
