"""Write checkpoints in the background: training waits for a copy, not for the disk."""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from unmask.storage import checkpoints

# On Linux's scale, where 0 is normal and 19 the least urgent.
NICENESS = 10
# Buffers by the shape and dtype that fit in them.
Buffers = dict[tuple[torch.Size, torch.dtype], list[Tensor]]


class CheckpointWriter(CheckpointIO):
    """Save Lightning's checkpoints with storage.checkpoints, in a thread.

    Lightning's AsyncCheckpointIO copies on the device, whose memory is the scarcer one.
    At most one checkpoint is being written: a disk that is too slow for the cadence
    delays training, instead of filling the memory with copies.
    """

    def __init__(self, keep: int) -> None:
        """Keep the newest `keep` checkpoints on the disk."""
        self.keep = keep
        self._thread = ThreadPoolExecutor(
            1, thread_name_prefix="checkpoint", initializer=_yield_to_training
        )
        self._writing: Future[Path] | None = None
        self._free_buffers: Buffers = {}

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        step = int(checkpoint["global_step"])
        folder = Path(path).parent

        def write(copy: dict[str, Any]) -> Path:
            return checkpoints.save(copy, folder, step, self.keep)

        self._start(checkpoint, write)

    def save_best(
        self, content: dict[str, Any], folder: Path, score: dict[str, float]
    ) -> None:
        """Write the best weights beside the checkpoints (checkpoints.save_best)."""
        self._start(content, lambda copy: checkpoints.save_best(copy, folder, score))

    def _start(
        self, content: dict[str, Any], write: Callable[[dict[str, Any]], Path]
    ) -> None:
        self.wait()
        copy = self._copy_to_cpu(content)
        self._writing = self._thread.submit(write, copy)

    def _copy_to_cpu(self, content: dict[str, Any]) -> dict[str, Any]:
        """Copy all tensors to where no later training step changes them.

        The buffers of the copy before are used again: the system hands fresh memory out
        page by page, which takes ten times as long.
        """
        used: Buffers = {}

        def copy(tensor: Tensor) -> Tensor:
            kind = (tensor.shape, tensor.dtype)
            free = self._free_buffers.get(kind)
            if free:
                buffer = free.pop()
            else:
                buffer = torch.empty(
                    tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda
                )
            used.setdefault(kind, []).append(buffer)
            return buffer.copy_(tensor.detach(), non_blocking=True)

        copied = apply_to_collection(content, Tensor, copy)
        # The thread must not write buffers that the GPU is still filling.
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        # The next copy waits until this one is written, so they may be used again.
        for kind, buffers in used.items():
            self._free_buffers.setdefault(kind, []).extend(buffers)
        return copied

    @property
    def is_writing(self) -> bool:
        return self._writing is not None and not self._writing.done()

    def raise_if_failed(self) -> None:
        """Raise the error of the newest checkpoint, if its writing has ended."""
        if not self.is_writing:
            self.wait()

    def wait(self) -> None:
        """Wait until everything is on the disk.

        Raises what writing raised: OSError with the bytes needed and free.
        """
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return checkpoints.load(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def _yield_to_training() -> None:
    """Lower this thread's priority, so that it takes no core from a CPU training."""
    # Linux alone has a nice value for each thread.
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
