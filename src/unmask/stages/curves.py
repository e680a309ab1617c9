"""The curves of a stage: each metric of its log over the epochs."""

from dataclasses import dataclass
from pathlib import Path

from unmask.storage.metrics_log import read_rows

AXES = ("step", "epoch")


@dataclass(frozen=True)
class Curve:
    """Hold the values of one metric; all three have the same length."""

    steps: tuple[int, ...]
    epochs: tuple[float, ...]
    values: tuple[float, ...]

    def value_at(self, epoch: float) -> float:
        return self.values[self.epochs.index(epoch)]

    def best(self, higher_is_better: bool) -> tuple[float, float]:
        """Return epoch and value of the best one, the earliest of several."""
        pick = max if higher_is_better else min
        value = pick(self.values)
        return self.epochs[self.values.index(value)], value


def read_curves(folder: Path) -> dict[str, Curve]:
    """Return the curve of each metric in a stage's log; none where it has no log."""
    points: dict[str, list[tuple[int, float, float]]] = {}
    for row in read_rows(folder / "metrics.jsonl"):
        if not isinstance(row, dict) or not set(AXES) <= row.keys():
            continue
        for name, value in row.items():
            if name not in AXES and isinstance(value, int | float):
                point = (row["step"], row["epoch"], value)
                points.setdefault(name, []).append(point)
    curves = {}
    for name, known in points.items():
        steps, epochs, values = zip(*known, strict=True)
        curves[name] = Curve(steps, epochs, values)
    return curves
