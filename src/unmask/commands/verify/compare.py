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
from unmask.storage.metrics_log import read_rows

# metrics that differ in any two runs
TIMING_KEYS = ("images_per_second",)
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
    our_state = _load_newest(ours)
    their_state = _load_newest(undisturbed)
    # moments beside the weights: a lost moment shows in the weights a step later
    weights = differing_names(our_state["state_dict"], their_state["state_dict"])
    moments = differing_names(
        {key: our_state.get(key) for key in OPTIMIZER_KEYS},
        {key: their_state.get(key) for key in OPTIMIZER_KEYS},
    )
    names_by_part = {"weights": list(weights), "moments": list(moments)}
    is_same = not any(names_by_part.values())
    comparison.by_column["weights"] = "same" if is_same else "differ"
    for part, names in names_by_part.items():
        if names:
            more = ""
            if len(names) > MAX_NAMED:
                more = f" and {len(names) - MAX_NAMED} more"
            comparison.differences.append(
                f"final {part} differ: {', '.join(names[:MAX_NAMED])}{more}"
            )


def _compare_metrics(comparison: Comparison, ours: Path, undisturbed: Path) -> None:
    """Compare metrics.jsonl, times aside, and the metrics of result.json."""
    our_rows = _without_timings(read_rows(ours / "metrics.jsonl"))
    their_rows = _without_timings(read_rows(undisturbed / "metrics.jsonl"))
    our_result = (read_result(ours) or {}).get("metrics", {})
    their_result = (read_result(undisturbed) or {}).get("metrics", {})
    is_same = our_rows == their_rows and our_result == their_result
    comparison.by_column["metrics"] = "same" if is_same else "differs"
    if our_rows != their_rows:
        # where one log is only shorter, it differs from the line after its last
        line = min(len(our_rows), len(their_rows))
        for i, (our, their) in enumerate(zip(our_rows, their_rows, strict=False)):
            if our != their:
                line = i
                break
        comparison.differences.append(f"metrics.jsonl differs from line {line + 1} on")
    if our_result != their_result:
        values = [
            f"{key} is {our_result.get(key)}, undisturbed {their_result[key]}"
            for key in their_result
            if our_result.get(key) != their_result[key]
        ]
        comparison.differences.append(f"results differ: {', '.join(values)}")


def compare_within_bounds(
    ours: Path, undisturbed: Path, loss_bound: float, weights_bound: float
) -> Comparison:
    """Compare trainings on two numbers of processes.

    What the model gets is compared bit for bit; losses and weights may differ by
    relative bounds, since sums over processes are made in another order.
    """
    comparison = _compare_traces(ours, undisturbed, HASHED_PARTS)
    our_rows = read_rows(ours / TRACE_FILE)
    their_rows = read_rows(undisturbed / TRACE_FILE)
    steps = []
    distances = []
    for our, their in zip(our_rows, their_rows, strict=False):
        steps.append(our["step"])
        distances.append(
            _relative_difference(
                float.fromhex(our["loss"]), float.fromhex(their["loss"])
            )
        )
    comparison.by_column["loss"] = f"{max(distances):.1e}" if distances else ""
    for step, distance in zip(steps, distances, strict=True):
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
    our_rows = {row["step"]: row for row in read_rows(ours / TRACE_FILE)}
    their_rows = {row["step"]: row for row in read_rows(undisturbed / TRACE_FILE)}
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
    if not first_steps:
        return comparison
    first_step = min(first_steps.values())
    comparison.first_step = first_step
    if first_step not in our_rows:
        comparison.differences.append(f"step {first_step} is missing in this run")
    elif first_step not in their_rows:
        comparison.differences.append(
            f"step {first_step} is missing in the undisturbed run"
        )
    else:
        names = [part for part, step in first_steps.items() if step == first_step]
        comparison.differences.append(
            f"the first step that differs is {first_step}, in its {' and '.join(names)}"
        )
    return comparison


def _without_timings(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if key not in TIMING_KEYS}
        for row in rows
    ]


def _load_newest(stage_folder: Path) -> dict[str, Any]:
    path = checkpoints.newest(stage_folder / "checkpoints")
    if path is None:
        raise ValueError(
            f"{stage_folder} holds no complete checkpoint; run the stage again"
        )
    return checkpoints.load(path)


def differing_names(a: Any, b: Any, name: str = "") -> Iterator[str]:
    """Yield the dotted names of what differs between two nested values.

    They hold containers, tensors and numbers; equal means bit for bit.
    """
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(key for key in b if key not in a)]:
            inner = f"{name}.{key}" if name else str(key)
            if key in a and key in b:
                yield from differing_names(a[key], b[key], inner)
            else:
                yield inner
    elif isinstance(a, list | tuple) and type(a) is type(b) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from differing_names(x, y, f"{name}.{i}")
    elif isinstance(a, Tensor) and isinstance(b, Tensor):
        if not is_identical(a, b):
            yield name
    # repr shows all bits of a float
    elif type(a) is not type(b) or repr(a) != repr(b):
        yield name


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
