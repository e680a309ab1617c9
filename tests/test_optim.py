"""Decay, rates and trust ratios reach exactly the parameters that the recipes name."""

import math
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.optim import Optimizer

from small_runs import raw_config
from unmask.encoder import Encoder
from unmask.heads import Classifier, FineTuneFeatures, PrecomputedFeatures
from unmask.mae import MAE
from unmask.optim import OptimizerRecipe

PRETRAIN = OptimizerRecipe(
    "adamw", 1.5e-4, 4096, 0.05, (0.9, 0.95), warmup_steps=4, total_steps=12
)
PROBE = OptimizerRecipe(
    "lars", 0.1, 16384, 0.0, (0.9, 0.999), warmup_steps=0, total_steps=10
)


def decays(model: nn.Module, recipe: OptimizerRecipe) -> dict[str, float]:
    """Return the weight decay of every parameter that the optimiser has."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = recipe(model)[0].param_groups
    return {
        names[parameter]: group["weight_decay"]
        for group in groups
        for parameter in group["params"]
    }


def test_biases_and_norms_are_not_decayed_but_matrices_and_tokens_are(
    make_mae: Callable[..., MAE],
) -> None:
    model = make_mae()
    decay_of = decays(model, PRETRAIN)
    shapes = {name: p.ndim for name, p in model.named_parameters() if p.requires_grad}
    assert decay_of == {
        name: 0.05 if ndim > 1 else 0.0 for name, ndim in shapes.items()
    }
    assert (
        decay_of["encoder.cls_token"]
        == decay_of["decoder.mask_token"]
        == decay_of["decoder.head.weight"]
        == 0.05
    )


def test_fine_tuning_does_not_decay_class_token_and_positions(
    make_mae: Callable[..., MAE],
) -> None:
    model = Classifier(
        FineTuneFeatures(make_mae().encoder, "mean"), 10, probe=False, seed=0
    )
    decay_of = decays(model, replace(PRETRAIN, decay_tokens=False))
    assert decay_of["features.encoder.patch_embed.weight"] == 0.05
    assert decay_of["features.encoder.cls_token"] == 0
    assert decay_of["features.encoder.pos_embed"] == 0


def test_lars_does_not_decay_them_either(make_mae: Callable[..., MAE]) -> None:
    model = Classifier(
        FineTuneFeatures(make_mae().encoder, "mean"), 10, probe=False, seed=0
    )
    decay_of = decays(model, replace(PROBE, weight_decay=0.05, decay_tokens=False))
    assert decay_of["features.encoder.patch_embed.weight"] == 0.05
    assert (
        decay_of["features.encoder.cls_token"]
        == decay_of["features.encoder.pos_embed"]
        == 0
    )


def test_min_lr_above_the_peak_of_a_small_batch_does_not_raise_the_rate() -> None:
    assert replace(PROBE, batch_size=4, base_lr=1e-3, min_lr=1.0).lr_factor(10) == 1


def test_fixed_positions_are_not_given_to_the_optimiser(
    make_mae: Callable[..., MAE],
) -> None:
    assert not [name for name in decays(make_mae(), PRETRAIN) if "pos_embed" in name]


def test_rates_are_scaled_warm_up_from_zero_and_end_at_zero() -> None:
    optimizer, schedule = PRETRAIN(nn.Linear(3, 2))
    rates = []
    for _ in range(13):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == 0
    assert rates[2] == pytest.approx(1.2e-3)
    assert max(rates) == rates[4] == pytest.approx(2.4e-3)
    assert rates[12] == 0


def test_a_step_at_rate_zero_moves_nothing() -> None:
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    one_step(model, PRETRAIN, scale=1.0)
    assert model.weight.equal(before)


@pytest.mark.parametrize("betas", [(0.9, 0.95), (0.9, 0.999)])
def test_each_recipe_has_its_own_betas(betas: tuple[float, float]) -> None:
    """A peer fine-tunes with pretraining's 0.95; the paper says 0.999."""
    optimizer, _ = OptimizerRecipe("adamw", 1e-3, 256, 0.05, betas, 0, 10)(
        nn.Linear(3, 2)
    )
    assert {group["betas"] for group in optimizer.param_groups} == {betas}


def one_step(model: nn.Module, recipe: OptimizerRecipe, scale: float) -> Optimizer:
    optimizer, _ = recipe(model)
    (scale * model(torch.ones(1, 3)).sum()).backward()
    optimizer.step()
    return optimizer


def lars_moves(scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how far one step moves the weight and the bias of a probe's head."""
    model = Classifier(PrecomputedFeatures(3), 2, probe=False, seed=0)
    before = [p.detach().clone() for p in model.head.parameters()]
    one_step(model, PROBE, scale)
    weight, bias = (
        p.detach() - old for p, old in zip(model.head.parameters(), before, strict=True)
    )
    return weight, bias


def test_lars_adapts_matrices_even_without_weight_decay() -> None:
    """A step is lr x 0.001 x |w| for any gradient; plain SGD's would grow with it."""
    (weight, bias), (weight_of_100, bias_of_100) = lars_moves(1.0), lars_moves(100.0)
    norm = Classifier(PrecomputedFeatures(3), 2, probe=False, seed=0).head.weight.norm()
    torch.testing.assert_close(weight.norm(), 6.4 * 0.001 * norm, rtol=1e-3, atol=0)
    torch.testing.assert_close(weight_of_100, weight, rtol=1e-3, atol=1e-12)
    torch.testing.assert_close(bias_of_100, 100 * bias)


def test_lars_has_the_recipes_momentum() -> None:
    assert {group["momentum"] for group in PROBE(nn.Linear(3, 2))[0].param_groups} == {
        0.9
    }


@pytest.mark.parametrize("recipe", [PRETRAIN, PROBE], ids=["adamw", "lars"])
def test_frozen_parameters_are_left_out(recipe: OptimizerRecipe) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    assert set(decays(model, recipe)) == {"1.weight", "1.bias"}


def test_optimiser_and_schedule_state_are_plain_enough_to_be_loaded_safely() -> None:
    """A schedule with a method would put its state into every checkpoint."""
    _, schedule = PRETRAIN(nn.Linear(3, 2))
    assert schedule.state_dict()["lr_lambdas"] == [None] * len(schedule.base_lrs)


FINETUNE = OptimizerRecipe(
    "adamw",
    1e-3,
    1024,
    0.05,
    (0.9, 0.999),
    5,
    100,
    decay_tokens=False,
    layer_decay=0.75,
    min_lr=1e-6,
)
SIZES = {  # width, depth, heads, patch, grid
    "vit_base_patch16_224": (768, 12, 12, 16, 14),
    "vit_large_patch16_224": (1024, 24, 16, 16, 14),
    "vit_huge_patch14_224": (1280, 32, 16, 14, 16),
}


def timms(name: str) -> str:
    """Return our parameter's name in timm's ViT."""
    return re.sub(
        r"patch_embed\.",
        "patch_embed.proj.",
        re.sub(r"^features\.(encoder\.)?", "", name),
    )


@pytest.mark.parametrize("decay", [0.65, 0.75])
@pytest.mark.parametrize("size", SIZES)
def test_layer_decay_is_timms_parameter_by_parameter(size: str, decay: float) -> None:
    """Each parameter of B, L and H has timm's scale and weight decay.

    With mean pooling, after which both models normalise.
    """
    width, depth, heads, patch, grid = SIZES[size]
    with torch.device("meta"):
        theirs = timm.create_model(size, global_pool="avg", num_classes=10)
        features = FineTuneFeatures(
            Encoder((grid, grid), patch, 3, width, depth, heads), "mean"
        )
        model = Classifier(features, 10, probe=False, seed=0)
    undecayed = theirs.no_weight_decay()
    expected = {
        name: (group["lr_scale"], group["weight_decay"])
        for group in param_groups_layer_decay(
            theirs, 0.05, undecayed, layer_decay=decay
        )
        for name, parameter in theirs.named_parameters()
        if any(parameter is member for member in group["params"])
    }
    model = model.to_empty(device="cpu")  # reserved, never written
    names = {id(parameter): timms(name) for name, parameter in model.named_parameters()}
    groups = replace(FINETUNE, layer_decay=decay)(model)[0].param_groups
    settings_of = {
        names[id(p)]: (g["initial_lr"] / FINETUNE.peak_lr, g["weight_decay"])
        for g in groups
        for p in g["params"]
    }
    assert settings_of.keys() == expected.keys()
    assert {name: wd for name, (_, wd) in settings_of.items()} == {
        name: wd for name, (_, wd) in expected.items()
    }
    assert {name: lr for name, (lr, _) in settings_of.items()} == pytest.approx(
        {n: lr for n, (lr, _) in expected.items()}
    )
    assert len({lr for lr, _ in expected.values()}) == depth + 2


def port_lr(epoch: float, scale: float) -> float:
    """Compute the rate as facebookresearch/mae util/lr_sched.py does.

    lr 4e-3, min_lr 1e-6, 5 of 100 epochs of warm-up.
    """
    if epoch < 5:
        lr = 4e-3 * epoch / 5
    else:
        lr = 1e-6 + (4e-3 - 1e-6) * 0.5 * (
            1.0 + math.cos(math.pi * (epoch - 5) / (100 - 5))
        )
    return lr * scale


def test_min_lr_is_scaled_by_layer_decay_as_in_the_port(
    make_mae: Callable[..., MAE],
) -> None:
    """Each group's rate is the port's: the layer's scale multiplies min_lr too."""
    model = Classifier(
        FineTuneFeatures(make_mae().encoder, "mean"), 10, probe=False, seed=0
    )
    optimizer, schedule = FINETUNE(model)
    scales = [group["lr_scale"] for group in optimizer.param_groups]
    assert set(scales) == {0.75**3, 0.75**2, 0.75, 1.0}
    for epoch in range(101):
        expected = [port_lr(epoch, scale) for scale in scales]
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
            expected, rel=1e-9
        )
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(
    ("stage", "name", "betas"),
    [("finetune", "table9", (0.9, 0.999)), ("scratch", "table11", (0.9, 0.95))],
)
def test_the_papers_betas_reach_adam(
    stage: str, name: str, betas: tuple[float, float]
) -> None:
    recipe = raw_config(f"{stage}={name}", tiny=False)[stage]
    optimizer, _ = replace(FINETUNE, betas=tuple(recipe["betas"]))(nn.Linear(3, 2))
    assert {group["betas"] for group in optimizer.param_groups} == {betas}
