"""src/train.py with a planted defect: python tests/defective.py DEFECT overrides..."""

import runpy
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "src")]

from unmask.callbacks.checkpointing import Checkpointing
from unmask.data.loading import sampler

DEFECT = sys.argv.pop(1)
original_order = sampler.EpochBatches.order
original_load = Checkpointing.on_load_checkpoint


def order_from_the_start(self: sampler.EpochBatches, epoch: int) -> Any:
    """Forget the position in the epoch: each start begins with its first samples."""
    order = original_order(self, epoch)
    start = self.position() % len(self) * self.batch_size
    return order[start:] + order[:start]


def load_without_moments(
    self: Checkpointing, trainer: Any, module: Any, checkpoint: dict[str, Any]
) -> None:
    """Lose the first moments of one parameter at each resume."""
    original_load(self, trainer, module, checkpoint)
    checkpoint["optimizer_states"][0]["state"][0]["exp_avg"].zero_()


if DEFECT == "order":
    sampler.EpochBatches.order = order_from_the_start  # type: ignore[method-assign]
elif DEFECT == "moments":
    Checkpointing.on_load_checkpoint = load_without_moments  # type: ignore[method-assign]
runpy.run_path(str(Path(__file__).parents[1] / "src" / "train.py"), run_name="__main__")
