"""Checkpoints that are written while training goes on: it waits for a copy in memory alone, not for the disk."""

import os
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from unmask.storage import checkpoints

LESS_URGENT = 10  # of Linux's nice values


class CheckpointWriter(CheckpointIO):
    """Lightning's checkpoints through storage.checkpoints: atomic, hashed, read with weights_only; written by a thread.

    Lightning's AsyncCheckpointIO would copy on the device, whose memory is the scarcer one. At most one checkpoint is
    being written: a disk that is too slow for the cadence holds training up rather than fill the memory with copies.
    """

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self._thread = ThreadPoolExecutor(
            1, thread_name_prefix="checkpoint", initializer=_yield_to_training
        )
        self._writing: Future[Path] | None = None
        # memory that copies were in, by what fits there
        self._room: dict[tuple[Any, ...], list[Tensor]] = {}

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        step, folder = int(checkpoint["global_step"]), Path(path).parent
        self._start(
            checkpoint, lambda copy: checkpoints.save(copy, folder, step, self.keep)
        )

    def save_best(
        self, content: dict[str, Any], folder: Path, score: dict[str, float]
    ) -> None:
        """Beside the others; see checkpoints.save_best."""
        self._start(content, lambda copy: checkpoints.save_best(copy, folder, score))

    def _start(self, content: dict[str, Any], write: Any) -> None:
        self.wait()
        copy = self._copied(content)
        self._writing = self._thread.submit(write, copy)

    def _copied(self, content: dict[str, Any]) -> dict[str, Any]:
        """The same on the CPU, which no later step changes, in the memory of the copy before.

        Fresh memory costs ten times the time: the system hands it out page by page.
        """
        used: dict[tuple[Any, ...], list[Tensor]] = {}

        def copy(tensor: Tensor) -> Tensor:
            kind = (tensor.shape, tensor.dtype)
            free = self._room.get(kind)
            place = (
                free.pop()
                if free
                else torch.empty(kind[0], dtype=kind[1], pin_memory=tensor.is_cuda)
            )
            used.setdefault(kind, []).append(place)
            return place.copy_(tensor.detach(), non_blocking=True)

        found = apply_to_collection(content, Tensor, copy)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        for kind, places in used.items():
            self._room.setdefault(kind, []).extend(places)
        return found

    @property
    def busy(self) -> bool:
        return self._writing is not None and not self._writing.done()

    def tell(self) -> None:
        """Raise what the newest writing raised, if it is through."""
        if not self.busy:
            self.wait()

    def wait(self) -> None:
        """Until everything is on the disk. Raises what writing raised: OSError with the bytes needed and free."""
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
    """Linux has a nice value for each thread; an urgent writer would take a core from a training on CPUs."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LESS_URGENT)
