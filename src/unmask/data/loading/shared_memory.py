"""Memory that loader processes write batches into, and write into again once a batch is gone.

A fresh page has to be cleared by the system before it is written, which for large batches costs more than to hand them
over. The map is anonymous and made before the processes are forked: it takes no files and no room in /dev/shm, which is
small in containers.
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

# batches of a process on their way: two are read ahead, one is written, one is used or
# copied to the device
EACH = 4
# bytes of a tensor up to which it is sent by value: a file for each would cost more
SMALL = 2**16
FREE, WRITTEN, SENT = 0, 1, 2

numbers = count()
known: "weakref.WeakValueDictionary[int, Slots]" = weakref.WeakValueDictionary()
own: "WorkerSlots | None" = None  # of a loader's process


class Slots:
    """EACH slots of `size` bytes for each of so many processes, and a byte of each that says what it is used for.

    One process takes a slot, and until it has sent it frees it; after that only the receiver does. So the byte needs
    no lock.
    """

    def __init__(self, processes: int, size: int) -> None:
        page, total = mmap.PAGESIZE, processes * EACH
        self.key, self.size = next(numbers), -(-size // page) * page
        head = -(-total // page) * page
        memory = np.frombuffer(mmap.mmap(-1, head + total * self.size), dtype=np.uint8)
        self.states, self.memory = memory[:total], memory[head:]
        known[self.key] = self

    def tensor(
        self, number: int, ends_in: int, begin: int, size: int
    ) -> UInt8[Tensor, "_"]:
        """Bytes of a slot; free again when the last that refers to them is gone, if it is then as `ends_in` says."""
        start, states, here = number * self.size + begin, self.states, os.getpid()
        # which the tensor keeps; a slice of it would not keep it
        found = self.memory[start : start + size]

        def free() -> None:
            # not in a fork that inherited it
            if os.getpid() == here and states[number] == ends_in:
                states[number] = FREE

        weakref.finalize(found, free).atexit = False
        return torch.from_numpy(found)


class WorkerSlots(NamedTuple):
    """The slots of one process."""

    slots: Slots
    first: int

    def taken(self, size: int) -> UInt8[Tensor, "_"] | None:
        """So many bytes; None where none is free, or they are too many."""
        if not 0 < size <= self.slots.size:
            return None
        states = self.slots.states[self.first : self.first + EACH]
        free = np.flatnonzero(states == FREE)
        if not len(free):
            return None
        states[free[0]] = WRITTEN
        return self.slots.tensor(self.first + int(free[0]), WRITTEN, 0, size)

    def place_of(self, tensor: Tensor) -> tuple[int, int] | None:
        """(slot, bytes from where it begins); None where it lies elsewhere."""
        begin = tensor.data_ptr() - self.slots.memory.ctypes.data
        return (
            divmod(begin, self.slots.size)
            if 0 <= begin < self.slots.memory.nbytes
            else None
        )


def slots_for(processes: int, size: int) -> Slots | None:
    """None where no process is forked, which alone inherits a map."""
    forked = processes and multiprocessing.get_start_method() == "fork"
    return Slots(processes, size) if forked and size else None


def use(slots: Slots | None, process: int) -> None:
    """To be called first in a loader's process of that number."""
    global own
    own = WorkerSlots(slots, process * EACH) if slots else None


def new_batch(*shape: int) -> UInt8[Tensor, "B h w C"]:
    """In a loader's process where the one that trains finds it: it need not be copied there."""
    found = own.taken(math.prod(shape)) if own else None
    return torch.empty(shape, dtype=torch.uint8) if found is None else found.view(shape)


class BatchMessage:
    """A named tuple of tensors and others, which comes out as it was where it is unpickled."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return unpacked, (
            type(self.batch),
            [_sent(each) if isinstance(each, Tensor) else each for each in self.batch],
        )


class BufferRef(NamedTuple):
    """Where a tensor of bytes lies in a slot, and how."""

    key: int
    number: int
    begin: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def tensor(self) -> UInt8[Tensor, "..."]:
        span = 1 + sum(
            (side - 1) * stride
            for side, stride in zip(self.shape, self.strides, strict=True)
        )
        return (
            known[self.key]
            .tensor(self.number, SENT, self.begin, span)
            .as_strided(self.shape, self.strides)
        )


def unpacked(kind: type, values: list[Any]) -> Any:
    def received(each: Any) -> Any:
        if isinstance(each, BufferRef):
            return each.tensor()
        return torch.from_numpy(each) if isinstance(each, np.ndarray) else each

    return kind(*map(received, values))


def _sent(tensor: Tensor) -> Any:
    """What is sent in its place: where it lies, its values, or itself in the way of torch."""
    if (
        own
        and tensor.dtype == torch.uint8
        and tensor.nbytes > SMALL
        and own.place_of(tensor) is None
    ):
        copy = own.taken(tensor.nbytes)
        if copy is not None:
            tensor = copy.view(tensor.shape).copy_(tensor)
    place = own.place_of(tensor) if own and tensor.numel() else None
    if own and place:
        own.slots.states[place[0]] = SENT
        return BufferRef(own.slots.key, *place, tuple(tensor.shape), tensor.stride())
    return tensor.numpy() if tensor.nbytes <= SMALL else tensor
