"""One rank of a training, which records what it sees at each step.

    python tests/member.py RECORD overrides...

Environment: RANK, WORLD_SIZE and so on, as torchrun sets them; CRASH_AT=step to die
right after that step; INFINITE_AT=step to make its gradient infinite, and to check
steps one step later, as on a GPU.
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
reconstruction_loss = Pretrain.reconstruction_loss
on_train_batch_end = Checkpointing.on_train_batch_end


def count_local(tensors: Iterable[Any]) -> int:
    """Count the elements that are on this rank."""
    return sum(
        (tensor.to_local() if isinstance(tensor, DTensor) else tensor).numel()
        for tensor in tensors
    )


def record_step(self: Pretrain, batch: Any, key: Any, epoch: int) -> torch.Tensor:
    loss = reconstruction_loss(self, batch, key, epoch)
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
                "local_weights": count_local(self.model.parameters()),
                "local_moments": count_local(moments),
            }
        )
    return loss


def save_and_crash(self: Checkpointing, trainer: Any, *args: Any) -> None:
    on_train_batch_end(self, trainer, *args)
    if trainer.global_step == int(os.environ.get("CRASH_AT", -1)):
        # the test counts on the checkpoint that is being written
        self.writer.wait()
        os._exit(9)


Pretrain.reconstruction_loss = record_step  # type: ignore[method-assign]
Checkpointing.on_train_batch_end = save_and_crash  # type: ignore[method-assign]
if "INFINITE_AT" in os.environ:
    infinite_gradient(pytest.MonkeyPatch(), int(os.environ["INFINITE_AT"]))
    nonfinite.reads_late = lambda device: True
execute(plan_for(*OVERRIDES), Console(file=io.StringIO()))
torch.save(steps, RECORD / f"{os.environ.get('RANK', 0)}.pt")
