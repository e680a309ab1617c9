"""Which image of a recorded step is the worst."""

import math
from typing import NamedTuple

from unmask.runs.arithmetic import computed
from unmask.runs.recorded import Scene
from unmask.tasks.again import losses_by_sample


class Worst(NamedTuple):
    """An image by its place: row `row` of micro-batch `part`. bad: how many of all have a loss that is not finite."""

    part: int
    row: int
    sample: int
    loss: float
    bad: int
    images: int


def worst_image(scene: Scene) -> Worst:
    """The first one with pixels that are not finite, else with such a loss of its own, else that of the largest."""
    best: tuple[tuple[bool, bool, float], int, int, float] | None = None
    bad = 0
    for part, batch in enumerate(scene.parts):
        with computed(scene.module, scene.record.bfloat16):
            losses = losses_by_sample(scene.module, batch, scene.record.step - 1).tolist()
        sound = batch.images_BCHW.flatten(1).isfinite().all(dim=1).tolist()
        bad += sum(not math.isfinite(loss) for loss in losses)
        for row, loss in enumerate(losses):
            finite = math.isfinite(loss)
            weight = (not sound[row], not finite, loss if finite else 0.0)
            if best is None or weight > best[0]:
                best = (weight, part, row, loss)
    assert best is not None
    _, part, row, loss = best
    images = sum(len(batch.ids_B) for batch in scene.parts)
    return Worst(part, row, int(scene.parts[part].ids_B[row]), loss, bad, images)
