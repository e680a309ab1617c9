"""What a recipe does to each part of a model, read off the model and its optimiser.

A mistake in the recipe's code, such as a layer decay that reaches no parameter, shows
in this table, as it would not in one made from the recipe.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from rich.table import Table
from torch import nn
from torch.optim import Optimizer

from unmask.drop_path import DropPath

EMBEDDING = re.compile(r"encoder\.(cls_token|pos_embed|patch_embed)")
BLOCK = re.compile(r"encoder\.blocks\.(\d+)")


@dataclass(frozen=True)
class PartRates:
    """Say how one part of the model is trained.

    trained: how many of its parameters are. lr: at its peak; None where frozen.
    weight_decay: of its matrices; spared: how many trained parameters have none, such
    as biases.
    """

    part: str
    trained: int
    parameters: int
    lr: float | None
    weight_decay: float | None
    spared: int
    drop_path: float


def part_rates(model: nn.Module, optimizer: Optimizer) -> list[PartRates]:
    """Return the parts in the order of the forward pass.

    Raises ValueError where the optimiser lacks a trainable parameter, or has a frozen
    one.
    """
    # a tensor's == compares values, hence its identity
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    parts: dict[str, list[tuple[nn.Parameter, dict[str, Any] | None]]] = {}
    for name, parameter in model.named_parameters():
        group = groups.get(id(parameter))
        if (group is None) == parameter.requires_grad:
            where = "not in" if group is None else "in"
            raise ValueError(
                f"{name}: requires_grad is {parameter.requires_grad}, but it is"
                f" {where} the optimiser"
            )
        parts.setdefault(_part_name(name), []).append((parameter, group))
    drop_paths = {
        _part_name(name): module.rate
        for name, module in model.named_modules()
        if isinstance(module, DropPath)
    }
    return [
        _rates(part, members, drop_paths.get(part, 0.0))
        for part, members in parts.items()
    ]


def _rates(
    part: str,
    members: list[tuple[nn.Parameter, dict[str, Any] | None]],
    drop_path: float,
) -> PartRates:
    trained = [(p.numel(), group) for p, group in members if group is not None]
    # initial_lr is the peak: the schedule multiplies it by at most 1
    lrs = {group["initial_lr"] for _, group in trained}
    assert len(lrs) <= 1, f"{part} has several rates: {lrs}"
    # matrices have the recipe's decay, biases none: the larger one is shown
    decays = [group["weight_decay"] for _, group in trained]
    return PartRates(
        part,
        sum(count for count, _ in trained),
        sum(parameter.numel() for parameter, _ in members),
        next(iter(lrs), None),
        max(decays, default=None),
        sum(count for count, group in trained if not group["weight_decay"]),
        drop_path,
    )


def _part_name(parameter_name: str) -> str:
    if EMBEDDING.search(parameter_name):
        return "embedding"
    if block := BLOCK.search(parameter_name):
        return f"block {int(block[1]) + 1}"
    return "pooling" if "attention" in parameter_name else "head"


def rates_table(title: str, rates: list[PartRates]) -> Table:
    """Return the table that is printed before training starts."""
    table = Table(title=title, title_justify="left")
    table.add_column("part", no_wrap=True)
    for column in ("trained", "of", "peak lr", "decay", "drop path"):
        table.add_column(column, justify="right", no_wrap=True)
    for rate in merge_equal_parts(rates):
        table.add_row(
            rate.part,
            f"{rate.trained:,}",
            f"{rate.parameters:,}",
            "frozen" if rate.lr is None else f"{rate.lr:.3g}",
            "" if rate.weight_decay is None else f"{rate.weight_decay:g}",
            f"{rate.drop_path:.3f}" if rate.drop_path else "",
        )
    return table


def merge_equal_parts(rates: list[PartRates]) -> Iterator[PartRates]:
    """Merge neighbours that are treated alike, as in "block 1 to block 12"."""
    neighbours: list[PartRates] = []
    for rate in rates:
        if neighbours and _treatment(rate) != _treatment(neighbours[-1]):
            yield _merge(neighbours)
            neighbours = []
        neighbours.append(rate)
    if neighbours:
        yield _merge(neighbours)


def _treatment(rate: PartRates) -> tuple[Any, ...]:
    """Return what two parts must share to be one row of the table."""
    is_trained = rate.trained > 0
    is_whole = rate.trained == rate.parameters
    return is_trained, is_whole, rate.lr, rate.weight_decay, rate.drop_path


def _merge(rates: list[PartRates]) -> PartRates:
    """Return one row with the sums of the parts' counts."""
    first, last = rates[0], rates[-1]
    # rates and drop path are the same in all of them
    return replace(
        first,
        part=first.part if len(rates) == 1 else f"{first.part} to {last.part}",
        trained=sum(rate.trained for rate in rates),
        parameters=sum(rate.parameters for rate in rates),
        spared=sum(rate.spared for rate in rates),
    )
