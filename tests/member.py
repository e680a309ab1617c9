"""A process of several that train together, which writes down what it sees: python tests/member.py RECORD overrides...

Environment: RANK, WORLD_SIZE and so on, as torchrun has them; CRASH_AT=step to die right after that step;
INFINITE_AT=step to spoil its gradient, and look at steps one later, as on a GPU.
"""

import io
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "src"), str(Path(__file__).parent)]

import pytest
import torch
from rich.console import Console
from torch.distributed.tensor import DTensor

from planting import infinite_gradient
from small_runs import plan_for
from unmask.callbacks import nonfinite
from unmask.callbacks.checkpointing import Checkpointing
from unmask.tasks.pretrain import Pretrain
from unmask.training.execute import execute

RECORD, OVERRIDES = Path(sys.argv[1]), sys.argv[2:]
steps: list[dict[str, Any]] = []
lossy, saving = Pretrain.reconstruction_loss, Checkpointing.on_train_batch_end


def held(tensors: Iterable[Any]) -> int:
    """Elements that lie in this process."""
    return sum(
        (tensor.to_local() if isinstance(tensor, DTensor) else tensor).numel()
        for tensor in tensors
    )


def recorded(self: Pretrain, batch: Any, key: Any, epoch: int) -> torch.Tensor:
    loss = lossy(self, batch, key, epoch)
    if self.trainer.training:
        hidden = self.masking(key, batch.ids_B, epoch).hidden_BL
        moments = [
            moment
            for state in self.trainer.optimizers[0].state.values()
            for moment in state.values()
        ]
        steps.append(
            {
                "epoch": epoch,
                "ids": batch.ids_B,
                "images": batch.images_BCHW,
                "hidden": hidden,
                "loss": loss.detach(),
                "weights_held": held(self.model.parameters()),
                "moments_held": held(moments),
            }
        )
    return loss


def dying(self: Checkpointing, trainer: Any, *args: Any) -> None:
    saving(self, trainer, *args)
    if trainer.global_step == int(os.environ.get("CRASH_AT", -1)):
        self.io.wait()  # what is on the disk then is what the test counts on
        os._exit(9)


Pretrain.reconstruction_loss = recorded  # type: ignore[method-assign]
Checkpointing.on_train_batch_end = dying  # type: ignore[method-assign]
if "INFINITE_AT" in os.environ:
    infinite_gradient(pytest.MonkeyPatch(), int(os.environ["INFINITE_AT"]))
    nonfinite.lagging = lambda device: True
execute(plan_for(*OVERRIDES), Console(file=io.StringIO()))
torch.save(steps, RECORD / f"{os.environ.get('RANK', 0)}.pt")
