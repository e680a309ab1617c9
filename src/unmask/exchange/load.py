"""Weights into models of this project, strictly; only positions may change, where the grid is another one."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from unmask.decoder import Decoder
from unmask.encoder import Encoder
from unmask.exchange.account import shape
from unmask.exchange.weights import Report, Stack, Weights
from unmask.heads import Classifier, Features, FineTuneFeatures
from unmask.mae import MAE
from unmask.storage.checkpoints import below

MODELS = {
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
    """Positions on another grid, bicubic; the class token's is kept, and the same grid changes no bit."""
    return resample_abs_pos_embed(
        pos_embed, new_size=list(new_grid), old_size=list(old_grid), num_prefix_tokens=1
    )


def load_encoder(encoder: Encoder, weights: Weights) -> Report:
    """Raises ValueError, with the overrides that would fit, where anything but the grid differs."""
    _refuse_other_sizes(encoder, weights)
    state, report = _on_grid(weights.encoder, "encoder", weights, encoder)
    filled = {}
    # a fine-tuned classifier's, which normalises after pooling instead
    if "norm.weight" not in state:
        state |= {
            "norm.weight": torch.ones(encoder.width),
            "norm.bias": torch.zeros(encoder.width),
        }
        filled = {
            f"encoder.norm.{kind}": f"set to {value}"
            for kind, value in (("weight", 1), ("bias", 0))
        }
    encoder.load_state_dict(state, strict=True)
    return Report(report.matched, report.reshaped, filled)


def load_pretrained(
    encoder: Encoder, state: dict[str, Tensor], grid: tuple[int, int]
) -> None:
    """The encoder of one of our own pretrainings on `grid`, from its checkpoint's state dict, strictly."""
    own = below(state, "model.encoder.")
    encoder.load_state_dict(
        own | {"pos_embed": resample_positions(own["pos_embed"], grid, encoder.grid)}
    )


def load_mae(model: MAE, weights: Weights) -> Report:
    """Encoder and decoder. Raises ValueError as load_encoder does, and where there is no decoder."""
    decoder = weights.geometry.decoder
    if (
        weights.decoder is None
        or decoder is None
        or not isinstance(model.decoder, Decoder)
    ):
        raise ValueError(
            f"these weights ({weights.layout}) have no decoder; load them into an"
            " encoder instead"
        )
    _refuse(
        "decoder",
        decoder,
        _size(model.decoder.blocks),
        f"decoder.width={decoder.width} decoder.depth="
        f"{decoder.depth} decoder.heads={decoder.heads}",
    )
    first = load_encoder(model.encoder, weights)
    state, second = _on_grid(weights.decoder, "decoder", weights, model.encoder)
    model.decoder.load_state_dict(state, strict=True)
    return Report(
        first.matched + second.matched,
        {**first.reshaped, **second.reshaped},
        first.missing,
    )


def load_classifier(model: Classifier, weights: Weights) -> Report:
    """Encoder and head. Raises ValueError as load_encoder does, and where the heads are not of a kind."""
    features = model.features
    if not isinstance(features, Features | FineTuneFeatures):
        raise ValueError(
            f"a classifier on {type(features).__name__} has no encoder to load into"
        )
    own = {
        name.removeprefix("features."): value
        for name, value in model.state_dict().items()
        if not name.startswith("features.encoder.")
    }
    theirs = weights.head or {}
    wrong = [
        name
        for name in own.keys() | theirs.keys()
        if name not in own
        or name not in theirs
        or own[name].shape != theirs[name].shape
    ]
    if wrong or weights.pool != features.pool:
        had = (
            ", ".join(f"{name} {shape(value)}" for name, value in theirs.items())
            or "nothing"
        )
        wants = ", ".join(f"{name} {shape(value)}" for name, value in own.items())
        raise ValueError(
            f"the head is {had} (pool={weights.pool}); the model wants {wants}"
            f" (pool={features.pool})"
        )
    report = load_encoder(features.encoder, weights)
    state = {
        name: theirs[name.removeprefix("features.")]
        for name in model.state_dict()
        if name.removeprefix("features.") in theirs
    }
    loaded = model.load_state_dict(state, strict=False)
    assert all(name.startswith("features.encoder.") for name in loaded.missing_keys), (
        loaded
    )
    return Report(report.matched + tuple(theirs), report.reshaped, report.missing)


def _on_grid(
    tensors: dict[str, Tensor], part: str, weights: Weights, encoder: Encoder
) -> tuple[dict[str, Tensor], Report]:
    """The part's tensors with positions on the encoder's grid."""
    old, new = tensors["pos_embed"], weights.geometry.grid
    state = tensors | {"pos_embed": resample_positions(old, new, encoder.grid)}
    if new == encoder.grid:
        return state, Report(tuple(f"{part}.{name}" for name in tensors))
    change = {f"{part}.pos_embed": f"{shape(old)} -> {shape(state['pos_embed'])}"}
    return state, Report(
        tuple(f"{part}.{name}" for name in tensors if name != "pos_embed"), change
    )


def _refuse_other_sizes(encoder: Encoder, weights: Weights) -> None:
    sizes = weights.geometry
    for what, theirs, ours, key in (
        ("channels", sizes.channels, encoder.channels, "data.channels"),
        (
            "pixels a patch's side",
            sizes.patch_size,
            encoder.patch_size,
            "data.patch_size",
        ),
    ):
        if theirs != ours:
            raise ValueError(
                f"the weights have {theirs} {what}, the model {ours}; set"
                f" {key}={theirs}"
            )
    wanted = sizes.encoder
    name = MODELS.get((wanted.width, wanted.depth))
    remedy = (
        f"model.width={wanted.width} model.depth={wanted.depth}"
        f" model.heads={wanted.heads}"
    )
    _refuse(
        "encoder", wanted, _size(encoder.blocks), f"model={name}" if name else remedy
    )


def _refuse(part: str, theirs: Stack, ours: Stack, remedy: str) -> None:
    if list(_sizes(theirs)) != list(_sizes(ours)):
        raise ValueError(
            f"the weights' {part} is {', '.join(_sizes(theirs))}, the model's"
            f" {', '.join(_sizes(ours))}; set {remedy}"
        )


def _sizes(stack: Stack) -> Iterator[str]:
    yield f"{stack.width} wide"
    yield f"{stack.depth} deep"
    yield f"of {stack.heads} heads"
    yield f"with MLPs of {round(stack.width * stack.mlp_ratio)}"


def _size(blocks: nn.ModuleList) -> Stack:
    first = blocks[0]
    assert isinstance(first, Block)
    width, hidden = first.mlp.fc1.in_features, first.mlp.fc1.out_features
    return Stack(width, len(blocks), first.attn.num_heads, hidden / width)
