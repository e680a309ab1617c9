"""A process of several that train together, which writes down what it sees: python tests/member.py RECORD overrides...

Environment: RANK, WORLD_SIZE and so on, as torchrun has them; CRASH_AT=step to die right after that step.
"""

import io
import os
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "src"), str(Path(__file__).parent)]

import torch
from rich.console import Console

from small_runs import plan_for
from unmask.callbacks.keeper import Keeper
from unmask.runs.execute import execute
from unmask.tasks.pretrain import Pretrain

RECORD, OVERRIDES = Path(sys.argv[1]), sys.argv[2:]
steps: list[dict[str, Any]] = []
lossy, saving = Pretrain.reconstruction_loss, Keeper.on_train_batch_end


def recorded(self: Pretrain, batch: Any, key: Any, epoch: int) -> torch.Tensor:
    loss = lossy(self, batch, key, epoch)
    if self.trainer.training:
        hidden = self.masking(key, batch.ids_B, epoch).hidden_BL
        steps.append(
            {"epoch": epoch, "ids": batch.ids_B, "images": batch.images_BCHW, "hidden": hidden, "loss": loss.detach()}
        )
    return loss


def dying(self: Keeper, trainer: Any, *args: Any) -> None:
    saving(self, trainer, *args)
    if trainer.global_step == int(os.environ.get("CRASH_AT", -1)):
        os._exit(9)


Pretrain.reconstruction_loss = recorded  # type: ignore[method-assign]
Keeper.on_train_batch_end = dying  # type: ignore[method-assign]
execute(plan_for(*OVERRIDES), Console(file=io.StringIO()))
torch.save(steps, RECORD / f"{os.environ.get('RANK', 0)}.pt")
