"""Weights are xavier uniform and a function of (seed, name) only; biases are zero."""

import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import nn

from unmask.initialisation import initialise
from unmask.mae import MAE
from unmask.patches import sincos_2d

MakeMAE = Callable[..., MAE]


def state(model: nn.Module, part: str = "") -> dict[str, list[float]]:
    return {
        name: value.flatten().tolist()
        for name, value in model.state_dict().items()
        if name.startswith(part)
    }


def test_every_linear_is_xavier_uniform_with_zero_bias(make_mae: MakeMAE) -> None:
    """The decoder's embedding and head too: torch's default silently costs accuracy."""
    linears = {
        n: m
        for n, m in make_mae(rough=False).named_modules()
        if isinstance(m, nn.Linear)
    }
    assert {"encoder.patch_embed", "decoder.embed", "decoder.head"} < set(linears)
    for linear in linears.values():
        bound = math.sqrt(6 / (linear.in_features + linear.out_features))
        weights = linear.weight.detach().flatten()
        assert stats.kstest(weights, stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3
        assert weights.abs().max() <= bound
        assert (linear.bias == 0).all()


def test_queries_keys_and_values_are_one_matrix_for_the_bound(
    make_mae: MakeMAE,
) -> None:
    """sqrt(6 / 4D); three matrices of their own would reach sqrt(6 / 2D)."""
    width = 64
    weight = make_mae(width=width, rough=False).encoder.blocks[0].attn.qkv.weight
    assert weight.shape == (3 * width, width)
    assert weight.abs().max().item() == pytest.approx(
        math.sqrt(6 / (4 * width)), rel=1e-3
    )


def test_norms_start_as_identity_and_tokens_as_small_normals(make_mae: MakeMAE) -> None:
    model = make_mae(width=256, decoder_width=256, rough=False)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
            assert module.eps == 1e-6
    for token in (model.encoder.cls_token, model.decoder.mask_token):
        assert stats.kstest(token.detach().flatten() / 0.02, "norm").pvalue > 1e-3


def test_no_parameter_keeps_what_it_held_before_but_fixed_positions(
    make_mae: MakeMAE,
) -> None:
    model = make_mae(rough=False)
    expected = state(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.fill_(math.nan)
    initialise(model, seed=0)
    assert state(model) == expected
    assert model.encoder.pos_embed[0].equal(sincos_2d(32, (4, 4)))


def test_weights_depend_on_the_seed_and_not_on_torchs_generator(
    make_mae: MakeMAE,
) -> None:
    torch.manual_seed(1)
    first = state(make_mae(seed=3, rough=False))
    torch.manual_seed(2)
    assert state(make_mae(seed=3, rough=False)) == first
    other = state(make_mae(seed=4, rough=False))
    assert all(
        other[name] != first[name]
        for name in first
        if name.endswith("weight") and "norm" not in name
    )


def test_the_decoder_leaves_the_encoders_weights_alone(make_mae: MakeMAE) -> None:
    shallow, deep = (
        make_mae(decoder_depth=1, rough=False),
        make_mae(decoder_depth=4, decoder_width=32, rough=False),
    )
    assert state(shallow, "encoder.") == state(deep, "encoder.")
    assert state(shallow, "decoder.blocks.0.norm") != {}


def test_no_two_matrices_of_one_shape_are_alike(make_mae: MakeMAE) -> None:
    model = make_mae(decoder_width=32, rough=False)
    drawn = [
        tuple(p.flatten().tolist())
        for n, p in model.named_parameters()
        if n.endswith("weight") and p.ndim == 2
    ]
    assert len(set(drawn)) == len(drawn)
