"""The number that a stage is about, with its unit, and which direction is better."""

from dataclasses import dataclass
from typing import Any

# a stage's result.json
Result = dict[str, Any]


@dataclass(frozen=True)
class Measure:
    """A number of a result: its key among the metrics, its value, unit and decimals."""

    key: str
    value: float
    unit: str
    decimals: int
    higher_is_better: bool

    @property
    def text(self) -> str:
        return f"{self.value:.{self.decimals}f}"


def main_measure(result: Result) -> Measure | None:
    """Return the number that a stage is about; None where it has none of the known."""
    metrics = result["metrics"]
    # a task of the user's says itself which number counts
    if own := result.get("measure"):
        value = metrics[own["key"]]
        decimals = 1 if own["unit"].startswith("%") else 4
        better = own["higher_is_better"]
        return Measure(own["key"], value, own["unit"], decimals, better)
    if "val/accuracy" in metrics:
        return Measure("val/accuracy", metrics["val/accuracy"], "% top-1", 1, True)
    if "hold_most" in metrics:
        unit = (
            f"of {metrics['coefficients']:.0f} coefficients hold 90 % of the variance"
        )
        return Measure("hold_most", metrics["hold_most"], unit, 0, False)
    if "val/loss" in metrics:
        return Measure("val/loss", metrics["val/loss"], "validation loss", 4, False)
    return None


def is_higher_better(key: str) -> bool:
    """Tell whether a metric is to be large: accuracies are, losses and errors not."""
    return "accuracy" in key or key in ("images_per_second",)
