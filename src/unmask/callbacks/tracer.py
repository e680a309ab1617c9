"""trace.jsonl: a line an optimiser step, with hashes of what the model was given; runs and machines compare by diff."""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from unmask.callbacks.checkpoint_writer import CheckpointWriter
from unmask.data.loading.batch import Batch
from unmask.distributed import collectives
from unmask.storage.metrics_log import append, truncate_after

TRACE = "trace.jsonl"
PARTS = ("samples", "pixels", "masks")


class Tracer(L.Callback):
    """Each step's samples (ids and labels), pixels and masks as hashes, and its loss as exact as it is.

    Pixels and masks are those that the model got: crops, changes and mixtures are in them. A hash is a sum over
    samples, each with its id, so that it is the same however micro-batches and processes share a step out. To stand
    before the Keeper: the checkpoint of a step must not come before its line.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self.step = folder / TRACE, 0
        self.sums: dict[str, Tensor] = {}
        self.loss = 0.0
        # to the model, by the micro-batch at hand
        self.given: dict[str, Tensor] | None = None
        self.hook: RemovableHandle | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.step = trainer.global_step
        self.hook = pl_module.model.register_forward_pre_hook(self._look)
        if collectives.is_rank_zero():
            truncate_after(self.path, self.step)

    def on_train_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        self.given = {"pixels": batch.images_BCHW}

    def _look(self, model: torch.nn.Module, given: tuple[Any, ...]) -> None:
        if self.given is not None:  # validation looks at other images
            masks = {"masks": given[1].hidden_BL} if len(given) > 1 else {}
            self.given = {"pixels": given[0], **masks}

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        seen, self.given = {"samples": batch.labels_B, **(self.given or {})}, None
        for name, content in seen.items():
            self.sums[name] = self.sums.get(name, 0) + summed_hashes(
                batch.ids_B, content
            )
        # Lightning has divided it by the number of micro-batches
        self.loss += float(outputs["loss"])
        if trainer.global_step > self.step:
            self.step = trainer.global_step
            self._write(batch.epoch)

    def _write(self, epoch: int) -> None:
        sums, loss = (
            collectives.all_reduce_sum(torch.stack(list(self.sums.values()))),
            torch.tensor(self.loss).double(),
        )
        hashes = {
            name: limbs.numpy().tobytes().hex()
            for name, limbs in zip(self.sums, sums, strict=True)
        }
        row = {
            "step": self.step,
            "epoch": epoch,
            **hashes,
            "loss": float(collectives.all_reduce_mean(loss)).hex(),
        }
        self.sums, self.loss = {}, 0.0
        if collectives.is_rank_zero():
            append(self.path, row)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self.teardown(trainer, pl_module, "fit")

    def teardown(
        self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str
    ) -> None:
        if self.hook:
            self.hook.remove()
            self.hook = None


def summed_hashes(
    ids_B: Int[Tensor, "B"], content_B: Shaped[Tensor, "B *any"]
) -> Int[Tensor, "2"]:
    """The sum of 128 bits a sample (its id and its content), in two words that wrap: the order does not count."""
    rows = (
        content_B.detach()
        .cpu()
        .contiguous()
        .reshape(len(ids_B), -1)
        .view(torch.uint8)
        .numpy()
    )
    digests = []
    for i, row in zip(ids_B.tolist(), rows, strict=True):
        digest = hashlib.sha256(i.to_bytes(8, "little"))
        digest.update(row)
        digests.append(digest.digest()[:16])
    words = torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.int64)
    return words.view(-1, 2).sum(0)


# stage (kind/fingerprint), step (null: none) and folder, told by the environment
HOLD = "UNMASK_HOLD"
LONGEST = 120.0  # seconds: whoever asked may be gone
POLL = 0.01


class PauseAtStep(L.Callback):
    """Tells its process number, and after `step`, before anything is saved of it, waits to be killed or let go.

    Who is let go sees its file held<rank> gone.
    """

    def __init__(self, folder: Path, step: int | None, io: CheckpointWriter) -> None:
        self.folder, self.step, self.io = folder, step, io

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        (self.folder / f"pid{collectives.rank()}").write_text(str(os.getpid()))

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        if trainer.global_step != self.step:
            return
        self.step, deadline = None, time.monotonic() + LONGEST
        # what was saved before is on the disk: who kills knows where the run goes on
        self.io.wait()
        (held := self.folder / f"held{collectives.rank()}").touch()
        while held.exists() and time.monotonic() < deadline:
            time.sleep(POLL)


def pause_requested(stage: Path, io: CheckpointWriter) -> list[L.Callback]:
    """One that holds in this stage, where the environment asks for it."""
    asked = json.loads(os.environ.get(HOLD, "{}"))
    if not asked or Path(asked["stage"]).parts != stage.parts[-2:]:
        return []
    return [PauseAtStep(Path(asked["folder"]), asked["step"], io)]
