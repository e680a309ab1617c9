"""A task of the user's: a measurement of a frozen encoder, in a class of their own."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from unmask.randomness import make_key, seeded_generators
from unmask.tasks.features import LabelledFeatures

Change = Callable[[Tensor], Tensor]
NAME = re.compile(r"[a-z]\w*")


@runtime_checkable
class Features(Protocol):
    """Frozen features of the training and of the validation images.

    change: what is done to the images (B, C, H, W), which are normalised, before the
    encoder sees them; it keeps their shape. Without it features are computed once for
    all stages of a run.
    """

    def __call__(
        self, change: Change | None = None
    ) -> tuple[LabelledFeatures, LabelledFeatures]: ...


@runtime_checkable
class AnyTask(Protocol):
    """A measurement of a frozen encoder, as classes of the user's have it.

    unit: what stands behind the number, such as "% of turns recognised".
    higher_is_better: whether a larger number is the better one.
    """

    unit: str
    higher_is_better: bool

    def measure(self, features: Features, seed: int) -> Mapping[str, float]:
        """Return numbers by their names; the first is the result.

        NumPy's and torch's generators are seeded. All ranks measure the same.
        """
        ...


class ChangedImages(nn.Module):
    """Compute the features of images that are changed before."""

    def __init__(self, model: nn.Module, change: Change) -> None:
        super().__init__()
        self.model = model
        self.change = change

    def forward(self, images_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        return self.model(apply_change(self.change, images_BCHW))


def apply_change(
    change: Change, images_BCHW: Float[Tensor, "B C H W"]
) -> Float[Tensor, "B C H W"]:
    """Return the changed images; ValueError where they have another shape."""
    changed: Any = change(images_BCHW)
    shape = [*changed.shape] if isinstance(changed, Tensor) else type(changed).__name__
    if shape != [*images_BCHW.shape]:
        raise ValueError(
            f"the change of images turns {[*images_BCHW.shape]} into {shape}; keep the"
            " shape"
        )
    return changed


def run_task(task: AnyTask, features: Features, seed: int) -> dict[str, float]:
    """Return what the task measures, by `val/<name>`; ValueError for what is no number.

    The same seed gives the same numbers.
    """
    key = make_key(seed, "task")
    with seeded_generators((key.low, key.high)):
        measured: Any = task.measure(features, seed)
    if not isinstance(measured, Mapping) or not measured:
        raise ValueError(
            f"measure returns {measured!r}, and not numbers by their names, such as"
            " {'accuracy': 71.5}"
        )
    for name, value in measured.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(f"measure names a number {name!r}; use letters and _")
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"{name} has the shape {[*value.shape]}, not one number")
        if not math.isfinite(value):
            raise ValueError(f"{name} is {float(value)}, and not finite")
    return {f"val/{name}": float(value) for name, value in measured.items()}


def task_measure(task: AnyTask, metrics: Mapping[str, float]) -> dict[str, Any]:
    """Return what results record of a task: which number counts, and its unit."""
    return {
        "key": next(iter(metrics)),
        "unit": task.unit,
        "higher_is_better": task.higher_is_better,
    }
