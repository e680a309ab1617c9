"""Two ledgers' folders of one stage, compared: each step's samples, pixels, masks and loss, then all that is left."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unmask.callbacks.tracer import PARTS, TRACE
from unmask.stages.ledger import read_result
from unmask.storage import checkpoints
from unmask.storage.metrics_log import read

TIMED = ("images_per_second",)  # of the journal: no two runs have these alike
MOMENTS = ("optimizer_states", "lr_schedulers", "global_step")
SHOWN = 3  # tensors that are named


@dataclass
class Compared:
    """faults: what differs, in words, the first step before all else. cells: for the table, by column."""

    cells: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    first: int | None = None  # the first step that differs


def exactly(ours: Path, whole: Path) -> Compared:
    """Bit by bit; both are folders of a finished stage."""
    found = _traced(ours, whole, (*PARTS, "loss"))
    a, b = (_final(folder) for folder in (ours, whole))
    states = {
        "weights": list(differing(a["state_dict"], b["state_dict"])),
        "moments": list(
            differing({k: a.get(k) for k in MOMENTS}, {k: b.get(k) for k in MOMENTS})
        ),
    }
    for name, names in states.items():
        found.cells["weights"] = "same" if not any(states.values()) else "differ"
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            found.faults.append(
                f"final {name} differ: {', '.join(names[:SHOWN])}{more}"
            )
    journals = [_untimed(read(folder / "metrics.jsonl")) for folder in (ours, whole)]
    results = [
        (read_result(folder) or {}).get("metrics", {}) for folder in (ours, whole)
    ]
    found.cells["journal"] = (
        "same" if journals[0] == journals[1] and results[0] == results[1] else "differs"
    )
    if journals[0] != journals[1]:
        pairs = zip(journals[0], journals[1], strict=False)
        i = next(
            (i for i, (x, y) in enumerate(pairs) if x != y), min(map(len, journals))
        )
        found.faults.append(f"metrics.jsonl differs from line {i + 1} on")
    if results[0] != results[1]:
        keys = [key for key in results[1] if results[0].get(key) != results[1][key]]
        values = (
            f"{key} is {results[0].get(key)}, undisturbed {results[1][key]}"
            for key in keys
        )
        found.faults.append(f"results differ: {', '.join(values)}")
    return found


def closely(ours: Path, whole: Path, losses: float, weights: float) -> Compared:
    """Of two numbers of processes: what the model is given bit by bit, losses and weights within relative bounds."""
    found = _traced(ours, whole, PARTS)
    pairs = list(zip(*(read(folder / TRACE) for folder in (ours, whole)), strict=False))
    apart = [_relative(*(float.fromhex(row["loss"]) for row in pair)) for pair in pairs]
    worst = max(range(len(apart)), key=apart.__getitem__, default=0)
    found.cells["loss"] = f"{apart[worst]:.1e}" if apart else ""
    if beyond := [i for i, distance in enumerate(apart) if not distance <= losses]:
        at = pairs[beyond[0]][0]["step"]
        found.first = min(at, found.first or at)
        found.faults.append(
            f"losses are {apart[beyond[0]]:.1e} apart at step {at}, bound {losses:g}"
        )
    distance = norm_apart(*(_final(folder)["state_dict"] for folder in (ours, whole)))
    found.cells["weights"] = f"{distance:.1e}"
    if not distance <= weights:
        found.faults.append(
            f"final weights are {distance:.1e} apart, bound {weights:g}"
        )
    return found


def _traced(ours: Path, whole: Path, parts: tuple[str, ...]) -> Compared:
    """Both traces step by step."""
    a, b = (
        {row["step"]: row for row in read(folder / TRACE)} for folder in (ours, whole)
    )
    found = Compared()
    firsts: dict[str, int] = {}
    for part in parts:
        steps = [
            step
            for step in sorted(a.keys() | b.keys())
            if a.get(step, {}).get(part) != b.get(step, {}).get(part)
        ]
        seen = any(part in row for row in b.values())
        found.cells[part] = f"step {steps[0]}" if steps else "same" if seen else ""
        firsts |= {part: steps[0]} if steps else {}
    if firsts:
        found.first = min(firsts.values())
        names = " and ".join(
            part for part, step in firsts.items() if step == found.first
        )
        lost = [
            name
            for name, rows in (("this", a), ("the undisturbed", b))
            if found.first not in rows
        ]
        found.faults.append(
            f"step {found.first} is missing in {lost[0]} run"
            if lost
            else f"the first step that differs is {found.first}, in its {names}"
        )
    return found


def _untimed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if key not in TIMED} for row in rows
    ]


def _final(folder: Path) -> dict[str, Any]:
    path = checkpoints.newest(folder / "checkpoints")
    if path is None:
        raise ValueError(f"{folder} holds no whole checkpoint")
    return checkpoints.load(path)


def differing(a: Any, b: Any, name: str = "") -> Iterator[str]:
    """Dotted names of what is not the same, bit by bit, in two nests of containers, tensors and numbers."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(key for key in b if key not in a)]:
            inner = f"{name}.{key}" if name else str(key)
            if key in a and key in b:
                yield from differing(a[key], b[key], inner)
            else:
                yield inner
    elif isinstance(a, list | tuple) and type(a) is type(b) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from differing(x, y, f"{name}.{i}")
    elif isinstance(a, Tensor) and isinstance(b, Tensor):
        if not identical(a, b):
            yield name
    # a float's repr tells all its bits
    elif type(a) is not type(b) or repr(a) != repr(b):
        yield name


def identical(a: Tensor, b: Tensor) -> bool:
    """Bit for bit: NaN is NaN, and 0.0 is not -0.0."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(
        *(tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (a, b))
    )


def norm_apart(ours: dict[str, Tensor], whole: dict[str, Tensor]) -> float:
    """The norm of the difference relative to the norm, of all weights together.

    Alone, biases of keys differ: softmax ignores them, their gradient is rounding's, and Adam makes steps of it.
    """
    if ours.keys() != whole.keys():
        return float("inf")
    flat = [
        torch.cat([state[name].double().flatten() for name in sorted(whole)])
        for state in (ours, whole)
    ]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


def _relative(ours: float, whole: float) -> float:
    return abs(ours - whole) / abs(whole) if ours != whole else 0.0
