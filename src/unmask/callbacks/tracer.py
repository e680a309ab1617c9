"""Write trace.jsonl, with hashes of what the model saw in each step.

Two runs, or two machines, compare by the diff of their traces.
"""

import hashlib
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from unmask.data.loading.batch import Batch
from unmask.distributed import collectives
from unmask.storage.metrics_log import append_row, truncate_after

TRACE_FILE = "trace.jsonl"
HASHED_PARTS = ("samples", "pixels", "masks")


class Tracer(L.Callback):
    """Log hashes of each step's samples, pixels and masks, and its exact loss.

    Samples are ids and labels; pixels and masks are those that reached the model, after
    crops, augmentations and mixing. A hash is a sum over the step's samples, so that it
    is the same however micro-batches and ranks divide the step. Must come before
    Checkpointing: the line of a step has to be written before its checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / TRACE_FILE
        self.step = 0
        # Sums over the step under way.
        self.hash_sums: dict[str, Tensor] = {}
        self.loss = 0.0
        # What the model got of this micro-batch; None outside of training.
        self.model_inputs: dict[str, Tensor] | None = None
        self.hook: RemovableHandle | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.step = trainer.global_step
        self.hook = pl_module.model.register_forward_pre_hook(self._note_inputs)
        if collectives.is_rank_zero():
            truncate_after(self.path, self.step)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, *_: Any
    ) -> None:
        # The small dVAE's loss does not call the model's forward: there the images as
        # loaded are what it gets.
        self.model_inputs = {"pixels": batch.images_BCHW}

    def _note_inputs(self, model: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        # Validation's images are no part of the trace.
        if self.model_inputs is None:
            return
        self.model_inputs = {"pixels": inputs[0]}
        if len(inputs) > 1:
            self.model_inputs["masks"] = inputs[1].hidden_BL

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        *_: Any,
    ) -> None:
        parts = {"samples": batch.labels_B, **(self.model_inputs or {})}
        self.model_inputs = None
        for name, content in parts.items():
            hash_sum = sum_hashes(batch.ids_B, content)
            self.hash_sums[name] = self.hash_sums.get(name, 0) + hash_sum
        # Lightning has divided it by the number of micro-batches.
        self.loss += float(outputs["loss"])
        if trainer.global_step > self.step:
            self.step = trainer.global_step
            self._write(batch.epoch)

    def _write(self, epoch: int) -> None:
        sums = collectives.all_reduce_sum(torch.stack(list(self.hash_sums.values())))
        loss = collectives.all_reduce_mean(torch.tensor(self.loss).double())
        hashes = {
            name: words.numpy().tobytes().hex()
            for name, words in zip(self.hash_sums, sums, strict=True)
        }
        # In hexadecimal a float loses no bit.
        row = {"step": self.step, "epoch": epoch, **hashes, "loss": float(loss).hex()}
        self.hash_sums = {}
        self.loss = 0.0
        if collectives.is_rank_zero():
            append_row(self.path, row)

    def teardown(self, *_: Any, **__: Any) -> None:
        if self.hook:
            self.hook.remove()
            self.hook = None

    # Lightning does not call teardown after an exception.
    on_exception = teardown


def sum_hashes(
    ids_B: Int[Tensor, "B"], content_B: Shaped[Tensor, "B *any"]
) -> Int[Tensor, "2"]:
    """Sum 128-bit hashes of the samples, each of its id and its content.

    The sum is two 64-bit words that wrap around: the samples' order does not matter.
    """
    rows = content_B.detach().cpu().contiguous().reshape(len(ids_B), -1)
    digests = []
    for i, row in zip(ids_B.tolist(), rows.view(torch.uint8).numpy(), strict=True):
        sample_hash = hashlib.sha256(i.to_bytes(8, "little"))
        sample_hash.update(row)
        digests.append(sample_hash.digest()[:16])
    words = torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.int64)
    return words.view(-1, 2).sum(0)
