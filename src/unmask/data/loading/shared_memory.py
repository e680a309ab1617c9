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

# batches of a worker that are under way: two are read ahead, one is written, one is
# used or copied to the device
SLOTS_PER_WORKER = 4
# smaller tensors are sent by value: torch's way would cost a file for each
MAX_BYTES_BY_VALUE = 2**16
# states of a slot
FREE, WRITTEN, SENT = 0, 1, 2

next_key = count()
slots_by_key: "weakref.WeakValueDictionary[int, Slots]" = weakref.WeakValueDictionary()
worker_slots: "WorkerSlots | None" = None  # those of this process, if it is a worker


class Slots:
    """SLOTS_PER_WORKER slots of `size` bytes for each worker, and a state byte of each.

    A worker claims a slot, and may free it until it is sent; after that only the
    receiver may. So the state needs no lock.
    """

    def __init__(self, workers: int, size: int) -> None:
        page = mmap.PAGESIZE
        num_slots = workers * SLOTS_PER_WORKER
        self.key = next(next_key)
        self.size = _round_up(size, page)
        # the states come first, on pages of their own
        head = _round_up(num_slots, page)
        memory = np.frombuffer(
            mmap.mmap(-1, head + num_slots * self.size), dtype=np.uint8
        )
        self.states = memory[:num_slots]
        self.memory = memory[head:]
        slots_by_key[self.key] = self

    def tensor(
        self, slot: int, held_state: int, begin: int, size: int
    ) -> UInt8[Tensor, "_"]:
        """Return bytes of a slot; it becomes free when nothing refers to them any more.

        held_state: the state that the slot must have then, or it stays as it is.
        """
        start = slot * self.size + begin
        states, process = self.states, os.getpid()
        # the tensor keeps exactly this array alive; a slice of it would keep only its
        # base, and be freed too early
        array = self.memory[start : start + size]

        def free() -> None:
            # not in a fork that inherited the tensor
            if os.getpid() == process and states[slot] == held_state:
                states[slot] = FREE

        weakref.finalize(array, free).atexit = False
        return torch.from_numpy(array)


def _round_up(size: int, page: int) -> int:
    return -(-size // page) * page


class WorkerSlots(NamedTuple):
    """The slots of one worker, from number `first` on."""

    slots: Slots
    first: int

    def claim(self, size: int) -> UInt8[Tensor, "_"] | None:
        """Return so many bytes; None if no slot is free, or they are too many."""
        if not 0 < size <= self.slots.size:
            return None
        states = self.slots.states[self.first : self.first + SLOTS_PER_WORKER]
        free = np.flatnonzero(states == FREE)
        if not len(free):
            return None
        states[free[0]] = WRITTEN
        return self.slots.tensor(self.first + int(free[0]), WRITTEN, 0, size)

    def locate(self, tensor: Tensor) -> tuple[int, int] | None:
        """Return (slot, first byte in it) of a tensor; None if it is not in a slot."""
        begin = tensor.data_ptr() - self.slots.memory.ctypes.data
        if not 0 <= begin < self.slots.memory.nbytes:
            return None
        return divmod(begin, self.slots.size)


def make_slots(workers: int, size: int) -> Slots | None:
    """Make slots; None if there are no forked workers: only they inherit the map."""
    is_forked = workers and multiprocessing.get_start_method() == "fork"
    return Slots(workers, size) if is_forked and size else None


def attach_worker(slots: Slots | None, worker: int) -> None:
    """Set this process's slots; to be called first in the worker of that number."""
    global worker_slots
    worker_slots = WorkerSlots(slots, worker * SLOTS_PER_WORKER) if slots else None


def empty_batch(*shape: int) -> UInt8[Tensor, "B h w C"]:
    """Allocate a batch, in a worker if possible where the main process can read it."""
    memory = worker_slots.claim(math.prod(shape)) if worker_slots else None
    if memory is None:
        return torch.empty(shape, dtype=torch.uint8)
    return memory.view(shape)


class BatchMessage:
    """A named tuple of tensors and other values, pickled without copying its slots.

    Unpickling it gives the named tuple itself.
    """

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        values = [
            _to_message(value) if isinstance(value, Tensor) else value
            for value in self.batch
        ]
        return rebuild_batch, (type(self.batch), values)


class BufferRef(NamedTuple):
    """A uint8 tensor in a slot: where it lies, and its layout."""

    key: int
    slot: int
    begin: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def tensor(self) -> UInt8[Tensor, "..."]:
        """Return the tensor, sharing the slot's memory."""
        # from the first to the last byte that the layout touches
        span = 1 + sum(
            (side - 1) * stride
            for side, stride in zip(self.shape, self.strides, strict=True)
        )
        memory = slots_by_key[self.key].tensor(self.slot, SENT, self.begin, span)
        return memory.as_strided(self.shape, self.strides)


def rebuild_batch(kind: type, values: list[Any]) -> Any:
    """Return the named tuple that was sent."""
    return kind(*map(_from_message, values))


def _from_message(value: Any) -> Any:
    if isinstance(value, BufferRef):
        return value.tensor()
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def _to_message(tensor: Tensor) -> Any:
    """Return a reference to a slot, a small tensor's values, or the tensor itself.

    torch sends the last in its own way.
    """
    is_small = tensor.nbytes <= MAX_BYTES_BY_VALUE
    if (
        worker_slots
        and tensor.dtype == torch.uint8
        and not is_small
        and worker_slots.locate(tensor) is None
    ):
        memory = worker_slots.claim(tensor.nbytes)
        if memory is not None:
            tensor = memory.view(tensor.shape).copy_(tensor)
    place = worker_slots.locate(tensor) if worker_slots and tensor.numel() else None
    if worker_slots and place:
        slot, begin = place
        worker_slots.slots.states[slot] = SENT
        shape, strides = tuple(tensor.shape), tensor.stride()
        return BufferRef(worker_slots.slots.key, slot, begin, shape, strides)
    return tensor.numpy() if is_small else tensor
