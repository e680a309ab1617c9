"""src/train.py with a defect planted in it: python tests/defective.py DEFECT overrides..."""

import runpy
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "src")]

from unmask.callbacks.checkpointing import Checkpointing
from unmask.data.loading import sampler

DEFECT = sys.argv.pop(1)
order, loading = sampler.EpochBatches.order, Checkpointing.on_load_checkpoint


def forgetful(
    self: Checkpointing, trainer: Any, module: Any, checkpoint: dict[str, Any]
) -> None:
    """The first moments of one parameter are lost at each resume."""
    loading(self, trainer, module, checkpoint)
    checkpoint["optimizer_states"][0]["state"][0]["exp_avg"].zero_()


# the position in the epoch is forgotten: each start begins with its first samples
if DEFECT == "order":
    sampler.EpochBatches.order = lambda self, epoch: (
        (found := order(self, epoch))[
            (k := self.position() % len(self) * self.batch_size) :
        ]
        + found[:k]
    )  # type: ignore[method-assign]
elif DEFECT == "moments":
    Checkpointing.on_load_checkpoint = forgetful  # type: ignore[method-assign]
runpy.run_path(str(Path(__file__).parents[1] / "src" / "train.py"), run_name="__main__")
