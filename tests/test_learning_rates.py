"""The table of learning rates shows what the paper's and the port's recipes do to a model."""

import io
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.optim import AdamW

from small_runs import raw_config
from unmask import encoder
from unmask.config.checks import check
from unmask.data.loading.in_memory import InMemory
from unmask.encoder import Encoder
from unmask.heads import Classifier
from unmask.optim import OptimizerRecipe
from unmask.stages.fingerprint import StageSpec, measure_science
from unmask.stages.ledger import StageFolder
from unmask.stages.plan import Plan
from unmask.training.learning_rates import (
    PartRates,
    merge_equal_parts,
    part_rates,
    rates_table,
)
from unmask.training.prepare import prepare
from unmask.training.run import Run, Stage

# recipe: (model, depth, width, peak rate, decay of rates, last drop path, pooling), of
# Table 9 and FINETUNE.md
RECIPES: dict[str, tuple[str, int, int, float, float, float, str]] = {
    "table9": ("mae_vit_b", 12, 768, 4e-3, 0.75, 0.1, "cls"),
    "table9_l": ("mae_vit_l", 24, 1024, 4e-3, 0.75, 0.1, "cls"),
    "table9_h": ("mae_vit_h", 32, 1280, 4e-3, 0.75, 0.2, "cls"),
    "port_b": ("mae_vit_b", 12, 768, 2e-3, 0.65, 0.1, "mean"),
    "port_l": ("mae_vit_l", 24, 1024, 4e-3, 0.75, 0.2, "mean"),
    "port_h": ("mae_vit_h", 32, 1280, 4e-3, 0.75, 0.3, "mean"),
}
# with 1,000 classes
PUBLISHED = {
    "mae_vit_b": 86_567_656,
    "mae_vit_l": 304_326_632,
    "mae_vit_h": 632_045_800,
}
IMAGES = InMemory(
    torch.zeros(1, 3, 1, 1, dtype=torch.uint8).expand(10_000, -1, -1, -1),
    torch.zeros(10_000).long(),
)
PARTIAL = (0, 0.5, 1, 2, 12)


def unwritten_encoder(*args: Any, **kwargs: Any) -> Encoder:
    """An encoder on memory that is reserved and never written: a ViT-H takes no time."""
    with torch.device("meta"):
        return Encoder(*args, **kwargs).to_empty(device="cpu")


@cache
def composed(model: str, recipe: str) -> dict[str, Any]:
    return raw_config(
        f"model={model}",
        "data=imagenet",
        "data.root=none",
        f"finetune={recipe}",
        tiny=False,
    )


@cache
def built(
    kind: str, model: str, recipe: str, **values: Any
) -> tuple[Classifier, OptimizerRecipe]:
    """Model and optimiser of a stage on ImageNet, as they enter training; values: replace the recipe's."""
    raw = composed(model, recipe)
    config = check(raw | {kind: raw[kind] | values})
    spec = StageSpec(
        kind, "pretrained", measure_science(kind, "pretrained", config, "none")
    )
    run = Run(
        Plan(config, (spec,), tuple(map(str, range(1000))), None),
        Console(file=io.StringIO()),
    )
    run.splits = (IMAGES, IMAGES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "Encoder", unwritten_encoder)
        module, _ = prepare(Stage(run, spec, StageFolder(Path("none"), spec)))
    return module.model, module.make_optimizer


def rates_of(kind: str, model: str, recipe: str, **values: Any) -> list[PartRates]:
    classifier, make_optimizer = built(kind, model, recipe, **values)
    return part_rates(classifier, make_optimizer(classifier)[0])


@pytest.fixture(params=RECIPES)
def recipe(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def rates(recipe: str) -> list[PartRates]:
    return rates_of("finetune", RECIPES[recipe][0], recipe)


def test_every_parameter_of_the_published_model_is_trained(
    recipe: str, rates: list[PartRates]
) -> None:
    """The mean has a norm of its own, and the encoder's is the one thing left out."""
    model, depth, width, *_, pool = RECIPES[recipe]
    assert [rate.part for rate in rates] == [
        "embedding",
        *(f"block {i + 1}" for i in range(depth)),
        "head",
    ]
    assert sum(rate.trained for rate in rates) == PUBLISHED[model]
    assert sum(rate.parameters for rate in rates) == PUBLISHED[model] + (
        2 * width if pool == "mean" else 0
    )
    assert all(rate.trained == 12 * width**2 + 13 * width for rate in rates[1:-1])


def test_the_peak_rate_falls_with_the_distance_from_the_head(
    recipe: str, rates: list[PartRates]
) -> None:
    """base_lr * batch / 256 * decay^(depth + 1 - id); id 0: embedding and tokens, i: block i, depth + 1: the rest."""
    _, depth, _, peak, decay, *_ = RECIPES[recipe]
    assert [rate.lr for rate in rates] == pytest.approx(
        [peak * decay ** (depth + 1 - i) for i in range(depth + 2)]
    )


def test_one_dimensional_parameters_and_tokens_have_no_weight_decay(
    recipe: str, rates: list[PartRates]
) -> None:
    model, depth, width, *_ = RECIPES[recipe]
    classifier, make_optimizer = built("finetune", model, recipe)
    names = {
        id(p): name.removeprefix("features.encoder.")
        for name, p in classifier.named_parameters()
    }
    decay = {
        names[id(p)]: group["weight_decay"]
        for group in make_optimizer(classifier)[0].param_groups
        for p in group["params"]
    }
    spared = {"cls_token", "pos_embed"} | {
        n for n, p in classifier.named_parameters() if p.ndim == 1
    }
    spared = {name.removeprefix("features.encoder.") for name in spared}
    assert decay == {name: 0.0 if name in spared else 0.05 for name in decay}
    assert {rate.weight_decay for rate in rates} == {0.05}
    # class token, its position, the patches'
    tokens = 2 * width + (16 if model == "mae_vit_h" else 14) ** 2 * width
    assert [rate.spared for rate in rates] == [
        tokens + width,
        *[13 * width] * depth,
        2 * width + 1000,
    ]


def test_drop_path_grows_linearly_from_zero(
    recipe: str, rates: list[PartRates]
) -> None:
    """timm's linspace; read off both branches of each block."""
    model, depth, *_, last, _ = RECIPES[recipe]
    expected = torch.linspace(0, last, depth).tolist()
    assert [rate.drop_path for rate in rates] == pytest.approx([0, *expected, 0])
    blocks = built("finetune", model, recipe)[0].features.encoder.blocks  # type: ignore[union-attr]
    for branch in ("drop_path1", "drop_path2"):
        found = [getattr(getattr(block, branch), "rate", 0.0) for block in blocks]  # type: ignore[union-attr]
        assert found == pytest.approx(expected)


def partial(blocks: float, **values: Any) -> tuple[set[str], list[PartRates]]:
    """Names of what is trained, and the table."""
    values = {"blocks": blocks} | values
    classifier, _ = built("partial_finetune", "mae_vit_b", "table9", **values)
    trained = {name for name, p in classifier.named_parameters() if p.requires_grad}
    return trained, rates_of("partial_finetune", "mae_vit_b", "table9", **values)


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("blocks", PARTIAL)
def test_partial_fine_tuning_trains_exactly_the_named_parts(
    blocks: float, pool: str
) -> None:
    """Fig. 9: the head and its norm in any case; a half is the second norm and the MLP of the last block."""
    trained, _ = partial(blocks, pool=pool)
    encoder, norm = (
        "features.encoder",
        ("features.fc_norm" if pool == "mean" else "features.encoder.norm"),
    )
    all_names = {
        name
        for name, _ in built("finetune", "mae_vit_b", "table9", pool=pool)[
            0
        ].named_parameters()
    }
    wanted = {"head.", f"{norm}."} | {
        f"{encoder}.blocks.{i}." for i in range(12 - int(blocks), 12)
    }
    if blocks == 0.5:
        wanted |= {f"{encoder}.blocks.11.norm2.", f"{encoder}.blocks.11.mlp."}
    if blocks == 12:
        wanted |= {
            f"{encoder}.cls_token",
            f"{encoder}.pos_embed",
            f"{encoder}.patch_embed.",
        }
    assert trained == {name for name in all_names if name.startswith(tuple(wanted))}


@pytest.mark.parametrize("blocks", PARTIAL)
def test_the_table_shows_frozen_parts_and_the_rates_of_full_fine_tuning_for_the_others(
    blocks: float,
) -> None:
    full = rates_of("finetune", "mae_vit_b", "table9")
    _, found = partial(blocks)
    # index of the first part that is trained
    first = {0: 13, 0.5: 12, 1: 12, 2: 11, 12: 0}[blocks]
    for i, (rate, full_rate) in enumerate(zip(found, full, strict=True)):
        assert rate.parameters == full_rate.parameters
        if i < first:
            assert (rate.trained, rate.lr, rate.weight_decay, rate.drop_path) == (
                0,
                None,
                None,
                0,
            )
        elif blocks != 0.5 or i == 13:
            assert rate == full_rate
    if blocks == 0.5:
        assert found[12].lr == full[12].lr
        assert found[12].drop_path == full[12].drop_path, "of the half that is trained"
        assert found[12].trained == 2 * 768 + 8 * 768**2 + 5 * 768  # norm and MLP
    if blocks == 12:
        assert found == full


PART = PartRates("block 1", 10, 10, 1e-3, 0.05, 2, 0.0)
OTHERS = {"lr": 2e-3, "weight_decay": 0.1, "drop_path": 0.1, "trained": 4}


def test_equal_neighbours_are_one_row_with_their_sums() -> None:
    parts = [
        replace(PART, part=f"block {i}", trained=i, parameters=i, spared=1)
        for i in (1, 2, 3)
    ]
    assert list(merge_equal_parts(parts)) == [
        replace(PART, part="block 1 to block 3", trained=6, parameters=6, spared=3)
    ]
    assert list(merge_equal_parts([])) == []


@pytest.mark.parametrize("key", OTHERS)
def test_no_difference_is_hidden_in_a_row(key: str) -> None:
    """A block that is trained in part is not one with its neighbours either."""
    odd = replace(PART, part="block 2", **{key: OTHERS[key]})
    assert list(merge_equal_parts([PART, odd, replace(PART, part="block 3")])) == [
        PART,
        odd,
        replace(PART, part="block 3"),
    ]


def test_the_rows_of_every_recipe_stand_for_all_its_parts(
    rates: list[PartRates],
) -> None:
    together = list(merge_equal_parts(rates))
    for key in ("trained", "parameters", "spared"):
        assert sum(getattr(rate, key) for rate in together) == sum(
            getattr(rate, key) for rate in rates
        )
    assert len(together) == len(rates)  # layer decay: no two parts are alike


def test_the_table_shows_half_of_the_last_block_as_it_is() -> None:
    """Without layer decay its rate is that of the head."""
    _, found = partial(0.5, layer_decay=1.0, drop_path=0)
    console = Console(file=io.StringIO(), width=120)
    console.print(rates_table("fine-tune", found))
    lines = [
        line.split()
        for line in console.file.getvalue().splitlines()
        if "block" in line or "head" in line
    ]  # type: ignore[attr-defined]
    assert lines[0][:6] == ["│", "embedding", "to", "block", "11", "│"]
    assert "frozen" in lines[0]
    assert [line[1:3] for line in lines[1:]] == [["block", "12"], ["head", "│"]]
    assert {"4,723,968", "7,087,872", "0.004", "0.05"} < set(lines[1])


def test_a_trainable_parameter_that_the_optimiser_lacks_is_an_error(
    make_mae: Callable[..., nn.Module],
) -> None:
    model = make_mae()
    kept = [
        p
        for name, p in model.named_parameters()
        if p.requires_grad and name != "encoder.blocks.1.mlp.fc1.weight"
    ]
    with pytest.raises(
        ValueError,
        match=(
            r"encoder.blocks.1.mlp.fc1.weight: requires_grad is True, .* not in the"
            r" optimiser"
        ),
    ):
        part_rates(model, AdamW(kept))


def test_a_frozen_parameter_that_the_optimiser_holds_is_an_error(
    make_mae: Callable[..., nn.Module],
) -> None:
    model = make_mae()
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad])
    model.get_parameter("decoder.mask_token").requires_grad_(False)
    with pytest.raises(
        ValueError,
        match=(
            r"decoder.mask_token: requires_grad is False, but it is in the optimiser"
        ),
    ):
        part_rates(model, optimizer)


def test_rates_are_read_off_the_optimiser_not_off_the_recipe() -> None:
    """A layer decay that reached no parameter group would show."""
    classifier, recipe = built("finetune", "mae_vit_b", "table9")
    optimizer, _ = replace(recipe, layer_decay=1.0)(classifier)
    assert {rate.lr for rate in part_rates(classifier, optimizer)} == {4e-3}
    assert all(
        a.lr < b.lr for a, b in pairwise(rates_of("finetune", "mae_vit_b", "table9"))
    )  # type: ignore[operator]
