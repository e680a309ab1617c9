"""Compare two trainings of one stage: each step's trace, then what they leave."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unmask.callbacks.tracer import HASHED_PARTS, TRACE_FILE
from unmask.stages.ledger import read_result
from unmask.storage import checkpoints
from unmask.storage.metrics_log import MACHINE_KEYS, read_rows

OPTIMIZER_KEYS = ("optimizer_states", "lr_schedulers", "global_step")
MAX_NAMED = 3  # tensors in a message


@dataclass
class Comparison:
    """Hold what differs between two trainings.

    by_column: a word for each column of the table. differences: sentences, the first
    step that differs before all else. first_step: that step.
    """

    by_column: dict[str, str] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    first_step: int | None = None


def compare_exactly(ours: Path, undisturbed: Path) -> Comparison:
    """Compare bit for bit. Both are folders of a finished stage."""
    comparison = _compare_traces(ours, undisturbed, (*HASHED_PARTS, "loss"))
    _compare_checkpoints(comparison, ours, undisturbed)
    _compare_metrics(comparison, ours, undisturbed)
    return comparison


def _compare_checkpoints(comparison: Comparison, ours: Path, undisturbed: Path) -> None:
    states = [_load_newest(folder) for folder in (ours, undisturbed)]
    # moments beside the weights: a lost moment shows in the weights a step later
    parts = {
        "weights": [state["state_dict"] for state in states],
        "moments": [
            {key: state.get(key) for key in OPTIMIZER_KEYS} for state in states
        ],
    }
    comparison.by_column["weights"] = "same"
    for part, (our, their) in parts.items():
        names = list(differing_names(our, their))
        if names:
            more = len(names) - MAX_NAMED
            comparison.by_column["weights"] = "differ"
            comparison.differences.append(
                f"final {part} differ: {', '.join(names[:MAX_NAMED])}"
                + (f" and {more} more" if more > 0 else "")
            )


def _compare_metrics(comparison: Comparison, ours: Path, undisturbed: Path) -> None:
    """Compare metrics.jsonl, times aside, and the metrics of result.json."""
    folders = (ours, undisturbed)
    our_rows, their_rows = (_rows_without_timings(folder) for folder in folders)
    our, their = ((read_result(folder) or {}).get("metrics", {}) for folder in folders)
    is_same = our_rows == their_rows and our == their
    comparison.by_column["metrics"] = "same" if is_same else "differs"
    if our_rows != their_rows:
        pairs = enumerate(zip(our_rows, their_rows, strict=False), start=1)
        differing = (line for line, (a, b) in pairs if a != b)
        # where one log is only shorter, it differs from the line after its last
        line = next(differing, min(len(our_rows), len(their_rows)) + 1)
        comparison.differences.append(f"metrics.jsonl differs from line {line} on")
    if our != their:
        values = [
            f"{key} is {our.get(key)}, undisturbed {their[key]}"
            for key in their
            if our.get(key) != their[key]
        ]
        comparison.differences.append(f"results differ: {', '.join(values)}")


def _rows_without_timings(stage_folder: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if key not in MACHINE_KEYS}
        for row in read_rows(stage_folder / "metrics.jsonl")
    ]


def compare_within_bounds(
    ours: Path, undisturbed: Path, loss_bound: float, weights_bound: float
) -> Comparison:
    """Compare trainings on two numbers of processes.

    What the model gets is compared bit for bit; losses and weights may differ by
    relative bounds, since sums over processes are made in another order.
    """
    comparison = _compare_traces(ours, undisturbed, HASHED_PARTS)
    our_rows, their_rows = (
        read_rows(folder / TRACE_FILE) for folder in (ours, undisturbed)
    )
    distances = {
        our["step"]: _relative_difference(
            float.fromhex(our["loss"]), float.fromhex(their["loss"])
        )
        for our, their in zip(our_rows, their_rows, strict=False)
    }
    largest = max(distances.values(), default=None)
    comparison.by_column["loss"] = "" if largest is None else f"{largest:.1e}"
    for step, distance in distances.items():
        # `not <=`: a NaN is beyond any bound
        if not distance <= loss_bound:
            comparison.first_step = min(step, comparison.first_step or step)
            comparison.differences.append(
                f"losses are {distance:.1e} apart at step {step}, bound {loss_bound:g}"
            )
            break
    distance = relative_distance(
        _load_newest(ours)["state_dict"], _load_newest(undisturbed)["state_dict"]
    )
    comparison.by_column["weights"] = f"{distance:.1e}"
    if not distance <= weights_bound:
        comparison.differences.append(
            f"final weights are {distance:.1e} apart, bound {weights_bound:g}"
        )
    return comparison


def _compare_traces(
    ours: Path, undisturbed: Path, parts: tuple[str, ...]
) -> Comparison:
    """Compare both traces step by step."""
    our_rows, their_rows = (
        {row["step"]: row for row in read_rows(folder / TRACE_FILE)}
        for folder in (ours, undisturbed)
    )
    comparison = Comparison()
    # of each part: all that follows from a difference differs as well
    first_steps: dict[str, int] = {}
    for part in parts:
        is_traced = any(part in row for row in their_rows.values())
        comparison.by_column[part] = "same" if is_traced else ""
        for step in sorted(our_rows.keys() | their_rows.keys()):
            our_value = our_rows.get(step, {}).get(part)
            if our_value != their_rows.get(step, {}).get(part):
                comparison.by_column[part] = f"step {step}"
                first_steps[part] = step
                break
    if first_steps:
        first = comparison.first_step = min(first_steps.values())
        names = [part for part, step in first_steps.items() if step == first]
        differing = " and ".join(names)
        difference = f"the first step that differs is {first}, in its {differing}"
        for run, rows in {"this": our_rows, "the undisturbed": their_rows}.items():
            if first not in rows:
                difference = f"step {first} is missing in {run} run"
        comparison.differences.append(difference)
    return comparison


def _load_newest(stage_folder: Path) -> dict[str, Any]:
    path = checkpoints.newest(stage_folder / "checkpoints")
    if path is None:
        raise ValueError(
            f"{stage_folder} holds no complete checkpoint; run the stage again"
        )
    return checkpoints.load(path)


def differing_names(a: Any, b: Any) -> Iterator[str]:
    """Yield the dotted names of what differs between two nested values.

    They hold containers, tensors and numbers; equal means bit for bit.
    """
    missing = object()
    our, their = dict(_leaves(a)), dict(_leaves(b))
    for name in our | their:
        if not _is_same(our.get(name, missing), their.get(name, missing)):
            yield name


def _leaves(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what a nested value holds, with its dotted name."""
    if isinstance(content, list | tuple):
        content = dict(enumerate(content))
    # an empty container is a leaf, too
    if not (isinstance(content, dict) and content):
        yield name, content
        return
    for key, value in content.items():
        yield from _leaves(value, f"{name}.{key}" if name else str(key))


def _is_same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return is_identical(a, b)
    # repr shows all bits of a float
    return type(a) is type(b) and repr(a) == repr(b)


def is_identical(a: Tensor, b: Tensor) -> bool:
    """Tell whether tensors are equal bit for bit: NaN is NaN, and 0.0 is not -0.0."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    a_bytes = a.contiguous().reshape(-1).view(torch.uint8)
    b_bytes = b.contiguous().reshape(-1).view(torch.uint8)
    return torch.equal(a_bytes, b_bytes)


def relative_distance(ours: dict[str, Tensor], undisturbed: dict[str, Tensor]) -> float:
    """Return ||a - b|| / ||b|| of all weights together; inf for other names.

    Single tensors may differ much more: softmax ignores the biases of keys, so their
    gradient is rounding, and Adam makes full steps of it.
    """
    if ours.keys() != undisturbed.keys():
        return float("inf")
    # in double precision: the distance may be as small as float32 rounding
    names = sorted(undisturbed)
    a = torch.cat([ours[name].double().flatten() for name in names])
    b = torch.cat([undisturbed[name].double().flatten() for name in names])
    return float((a - b).norm() / b.norm())


def _relative_difference(a: float, b: float) -> float:
    return abs(a - b) / abs(b) if a != b else 0.0
