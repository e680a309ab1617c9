"""Shared memory that loader workers write batches into, and use again.

The system has to clear a fresh page before it is written, which for large batches costs
more than handing them over. The memory is an anonymous map made before the workers are
forked: it takes no files, and no room in /dev/shm, which is small in containers.
"""

import math
import mmap
import multiprocessing
import os
import weakref
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from unmask.data.images.tensors import PixelTensor
from unmask.data.loading.batch import Batch

# batches of a worker that are under way: two are read ahead, one is written, one is
# used or copied to the device
SLOTS_PER_WORKER = 4
# smaller tensors are sent by value: torch's way would cost a file for each
MAX_BYTES_BY_VALUE = 2**16

next_key = count()
slots_by_key: "weakref.WeakValueDictionary[int, Slots]" = weakref.WeakValueDictionary()


class Slots:
    """SLOTS_PER_WORKER slots of `size` bytes for each worker, and which are used.

    Only its worker marks a slot as used, and only the receiver marks it as free: so the
    marks need no lock.
    """

    def __init__(self, workers: int, size: int) -> None:
        number = workers * SLOTS_PER_WORKER
        self.key = next(next_key)
        self.size = size
        self.is_used = np.frombuffer(mmap.mmap(-1, number), dtype=np.bool_)
        memory = np.frombuffer(mmap.mmap(-1, number * size), dtype=np.uint8)
        self.memory = memory.reshape(number, size)
        slots_by_key[self.key] = self

    def receive(self, slot: int, size: int) -> UInt8[Tensor, "_"]:
        """Return bytes of a slot, which is free when nothing refers to them."""
        is_used, process = self.is_used, os.getpid()
        # the tensor keeps exactly this array alive; a slice of it would keep only its
        # base, and be freed too early
        array = self.memory[slot, :size]

        def free() -> None:
            # not in a fork that inherited the tensor
            if os.getpid() == process:
                is_used[slot] = False

        weakref.finalize(array, free).atexit = False
        return torch.from_numpy(array)


class WorkerSlots(NamedTuple):
    """The slots of one worker, from number `first` on."""

    slots: Slots
    first: int

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> PixelTensor | None:
        """Return memory of a slot that is free until a `BatchMessage` takes it.

        None if all are used, or it is too small.
        """
        size = math.prod(shape) * dtype.itemsize
        mine = self.slots.is_used[self.first : self.first + SLOTS_PER_WORKER]
        free = np.flatnonzero(~mine)
        if size > self.slots.size or not len(free):
            return None
        memory = self.slots.memory[self.first + int(free[0]), :size]
        return torch.from_numpy(memory).view(dtype).view(shape)


worker_slots: WorkerSlots | None = None  # those of this process, if it is a worker


def make_slots(workers: int, size: int) -> Slots | None:
    """Make slots; None if there are no forked workers: only they inherit the map."""
    is_forked = workers and multiprocessing.get_start_method() == "fork"
    return Slots(workers, size) if is_forked and size else None


def attach_worker(slots: Slots | None, worker: int) -> None:
    """Set this process's slots; to be called first in the worker of that number."""
    global worker_slots
    worker_slots = WorkerSlots(slots, worker * SLOTS_PER_WORKER) if slots else None


class BatchMessage:
    """A batch on its way to the main process, where unpickling it gives the batch.

    Images in a slot are not copied; others are sent in torch's way.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.slot = _find_slot(batch.images_BCHW)
        if worker_slots and self.slot is not None:
            worker_slots.slots.is_used[self.slot] = True

    def __reduce__(self) -> tuple[Callable[..., Batch], tuple[Any, ...]]:
        batch = self.batch
        by_value = (batch.labels_B.numpy(), batch.ids_B.numpy(), *batch[3:])
        images = batch.images_BCHW
        if worker_slots is None or self.slot is None:
            small = images.nbytes <= MAX_BYTES_BY_VALUE
            return _rebuild, (images.numpy() if small else images, *by_value)
        layout = (images.dtype, tuple(images.shape), images.stride())
        key = worker_slots.slots.key
        return _rebuild, ((key, self.slot, *layout), *by_value)


def _find_slot(images: Tensor) -> int | None:
    """Return the slot that the images fill from its first byte on."""
    if worker_slots is None or not images.numel():
        return None
    slots = worker_slots.slots
    offset = images.data_ptr() - slots.memory.ctypes.data
    slot, begin = divmod(offset, slots.size)
    return slot if begin == 0 and 0 <= slot < len(slots.is_used) else None


def _rebuild(
    images: Any, labels: np.ndarray, ids: np.ndarray, epoch: int, bad_images: Any
) -> Batch:
    if isinstance(images, tuple):
        key, slot, dtype, shape, strides = images
        memory = slots_by_key[key].receive(slot, math.prod(shape) * dtype.itemsize)
        images = memory.view(dtype).as_strided(shape, strides)
    elif isinstance(images, np.ndarray):
        images = torch.from_numpy(images)
    labels_B, ids_B = torch.from_numpy(labels), torch.from_numpy(ids)
    return Batch(images, labels_B, ids_B, epoch, bad_images)
