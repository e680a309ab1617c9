"""Load weights into models of this project, strictly.

Only positions may change, where the model's grid of patches is another one.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from unmask.decoder import Decoder
from unmask.encoder import Encoder
from unmask.exchange.account import shape_text
from unmask.exchange.weights import Report, Stack, Weights
from unmask.heads import Classifier, Features, FineTuneFeatures
from unmask.mae import MAE
from unmask.storage.checkpoints import strip_prefix

# The config group `model` by width and depth.
MODEL_NAMES = {
    (192, 12): "mae_vit_ti",
    (384, 12): "mae_vit_s",
    (768, 12): "mae_vit_b",
    (1024, 24): "mae_vit_l",
    (1280, 32): "mae_vit_h",
}


def resample_positions(
    pos_embed: Float[Tensor, "1 T D"],
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
) -> Float[Tensor, "1 U D"]:
    """Resample positions to another grid, bicubically.

    The class token's position is kept. The same grid changes no bit.
    """
    return resample_abs_pos_embed(
        pos_embed, new_size=list(new_grid), old_size=list(old_grid), num_prefix_tokens=1
    )


def load_encoder(encoder: Encoder, weights: Weights) -> Report:
    """Load the encoder's weights.

    Raises ValueError, with the overrides that would fit, where more than the grid
    differs.
    """
    _check_encoder(encoder, weights)
    state, report = _fit_positions(weights.encoder, "encoder", weights, encoder)
    missing = {}
    # A classifier that normalises after pooling has no norm here; 1 and 0 are its
    # identity.
    if "norm.weight" not in state:
        state["norm.weight"] = torch.ones(encoder.width)
        state["norm.bias"] = torch.zeros(encoder.width)
        missing["encoder.norm.weight"] = "set to 1"
        missing["encoder.norm.bias"] = "set to 0"
    encoder.load_state_dict(state, strict=True)
    return Report(report.matched, report.reshaped, missing)


def load_pretrained(
    encoder: Encoder, state: dict[str, Tensor], grid: tuple[int, int]
) -> None:
    """Load the encoder of a pretraining of this project, strictly.

    state: the state dict of its checkpoint. grid: the grid it was trained on.
    """
    encoder_state = strip_prefix(state, "model.encoder.")
    positions = resample_positions(encoder_state["pos_embed"], grid, encoder.grid)
    encoder.load_state_dict(encoder_state | {"pos_embed": positions})


def load_mae(model: MAE, weights: Weights) -> Report:
    """Load encoder and decoder.

    Raises ValueError as load_encoder does, and where there is no decoder.
    """
    stack = weights.geometry.decoder
    if (
        weights.decoder is None
        or stack is None
        or not isinstance(model.decoder, Decoder)
    ):
        raise ValueError(
            f"these weights ({weights.layout}) have no decoder; load them into an"
            " encoder instead"
        )
    # Before anything is loaded: a refused model must stay as it was.
    remedy = (
        f"decoder.width={stack.width} decoder.depth={stack.depth}"
        f" decoder.heads={stack.heads}"
    )
    _check_stack("decoder", stack, _stack_of(model.decoder.blocks), remedy)
    first = load_encoder(model.encoder, weights)
    state, second = _fit_positions(weights.decoder, "decoder", weights, model.encoder)
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
    tensors: dict[str, Tensor], part: str, weights: Weights, encoder: Encoder
) -> tuple[dict[str, Tensor], Report]:
    """Return the part's tensors, with positions on the encoder's grid."""
    old = tensors["pos_embed"]
    new = resample_positions(old, weights.geometry.grid, encoder.grid)
    state = tensors | {"pos_embed": new}
    if weights.geometry.grid == encoder.grid:
        return state, Report(tuple(f"{part}.{name}" for name in tensors))
    matched = tuple(f"{part}.{name}" for name in tensors if name != "pos_embed")
    change = f"{shape_text(old)} -> {shape_text(new)}"
    return state, Report(matched, {f"{part}.pos_embed": change})


def _check_encoder(encoder: Encoder, weights: Weights) -> None:
    geometry = weights.geometry
    if geometry.channels != encoder.channels:
        raise ValueError(
            f"the weights have {geometry.channels} channels, the model"
            f" {encoder.channels}; set data.channels={geometry.channels}"
        )
    if geometry.patch_size != encoder.patch_size:
        raise ValueError(
            f"the weights have {geometry.patch_size} pixels a patch's side, the model"
            f" {encoder.patch_size}; set data.patch_size={geometry.patch_size}"
        )
    stack = geometry.encoder
    # One override where the config has a group of these sizes.
    name = MODEL_NAMES.get((stack.width, stack.depth))
    remedy = f"model={name}"
    if name is None:
        remedy = (
            f"model.width={stack.width} model.depth={stack.depth}"
            f" model.heads={stack.heads}"
        )
    _check_stack("encoder", stack, _stack_of(encoder.blocks), remedy)


def _check_stack(part: str, theirs: Stack, ours: Stack, remedy: str) -> None:
    if list(_describe(theirs)) != list(_describe(ours)):
        raise ValueError(
            f"the weights' {part} is {', '.join(_describe(theirs))}, the model's"
            f" {', '.join(_describe(ours))}; set {remedy}"
        )


def _describe(stack: Stack) -> Iterator[str]:
    yield f"{stack.width} wide"
    yield f"{stack.depth} deep"
    yield f"of {stack.heads} heads"
    # Ratios may differ by rounding where the widths are the same.
    yield f"with MLPs of {round(stack.width * stack.mlp_ratio)}"


def _stack_of(blocks: nn.ModuleList) -> Stack:
    first = blocks[0]
    assert isinstance(first, Block)
    width = first.mlp.fc1.in_features
    hidden = first.mlp.fc1.out_features
    return Stack(width, len(blocks), first.attn.num_heads, hidden / width)
