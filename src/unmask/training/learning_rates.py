"""What a recipe does to each part of a model, read off the model and its optimiser, not off the recipe."""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from torch import nn
from torch.optim import Optimizer

from unmask.drop_path import DropPath

EMBEDDING = re.compile(r"encoder\.(cls_token|pos_embed|patch_embed)")
BLOCK = re.compile(r"encoder\.blocks\.(\d+)")


@dataclass(frozen=True)
class PartRates:
    """One part of the model: parameters that are trained and in all, peak learning rate, decay, drop path.

    weight_decay: of its matrices; biases and other 1-D parameters have none, and `spared` counts what has none.
    """

    part: str
    trained: int
    parameters: int
    lr: float | None
    weight_decay: float | None
    spared: int
    drop_path: float


def part_rates(model: nn.Module, optimizer: Optimizer) -> list[PartRates]:
    """The parts in the order of the forward pass. Raises ValueError where the optimiser lacks a trainable parameter."""
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    parts: dict[str, list[tuple[nn.Parameter, dict[str, Any] | None]]] = {}
    for name, parameter in model.named_parameters():
        group = groups.get(id(parameter))
        if (group is None) == parameter.requires_grad:
            raise ValueError(
                f"{name}: requires_grad is {parameter.requires_grad}, and the optimiser"
                " says otherwise"
            )
        parts.setdefault(_part(name), []).append((parameter, group))
    drops = {
        _part(name): module.rate
        for name, module in model.named_modules()
        if isinstance(module, DropPath)
    }
    return [
        _rates(part, members, drops.get(part, 0.0)) for part, members in parts.items()
    ]


def _rates(
    part: str,
    members: list[tuple[nn.Parameter, dict[str, Any] | None]],
    drop_path: float,
) -> PartRates:
    trained = [(p.numel(), group) for p, group in members if group is not None]
    lr = {group["initial_lr"] for _, group in trained}
    decays = {group["weight_decay"] for _, group in trained}
    assert len(lr) <= 1, f"{part} has several rates: {lr}"
    return PartRates(
        part,
        sum(n for n, _ in trained),
        sum(p.numel() for p, _ in members),
        next(iter(lr), None),
        max(decays, default=None),
        sum(n for n, group in trained if not group["weight_decay"]),
        drop_path,
    )


def _part(name: str) -> str:
    if EMBEDDING.search(name):
        return "embedding"
    if block := BLOCK.search(name):
        return f"block {int(block[1]) + 1}"
    return "pooling" if "attention" in name else "head"


def merged(rates: list[PartRates]) -> Iterator[tuple[str, PartRates]]:
    """Neighbours that are treated alike, as one: 'block 1 - block 12'."""
    run: list[PartRates] = []
    for rate in [*rates, None]:
        if run and (rate is None or _treatment(rate) != _treatment(run[-1])):
            names = run[0].part if len(run) == 1 else f"{run[0].part} to {run[-1].part}"
            sums = [
                sum(getattr(r, key) for r in run)
                for key in ("trained", "parameters", "spared")
            ]
            last = run[-1]
            yield (
                names,
                PartRates(
                    names,
                    sums[0],
                    sums[1],
                    last.lr,
                    last.weight_decay,
                    sums[2],
                    last.drop_path,
                ),
            )
            run = []
        if rate:
            run.append(rate)


def _treatment(rate: PartRates) -> tuple[Any, ...]:
    whole = rate.trained == rate.parameters
    return rate.trained > 0, whole, rate.lr, rate.weight_decay, rate.drop_path


def rates_table(title: str, rates: list[PartRates]) -> Table:
    """For the terminal, before training starts."""
    table = Table(title=title, title_justify="left")
    table.add_column("part", no_wrap=True)
    for column in ("trained", "of", "peak lr", "decay", "drop path"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, rate in merged(rates):
        lr = "frozen" if rate.lr is None else f"{rate.lr:.3g}"
        decay = "" if rate.weight_decay is None else f"{rate.weight_decay:g}"
        drop = f"{rate.drop_path:.3f}" if rate.drop_path else ""
        table.add_row(
            name, f"{rate.trained:,}", f"{rate.parameters:,}", lr, decay, drop
        )
    return table


def rows(rates: list[PartRates]) -> list[dict[str, Any]]:
    """Plain values, to be kept beside the result."""
    return [asdict(rate) for rate in rates]
