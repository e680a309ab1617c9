"""Communication between the ranks that train one model.

In a single process, without a process group, each function returns its argument.
Tensors on the CPU travel by gloo, those on a GPU by NCCL; `process_group` opens both.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from jaxtyping import Float, Num
from torch import Tensor
from torch.distributed.tensor import DTensor

Result = TypeVar("Result")
# between messages of a rank zero that works alone for long
KEEP_ALIVE_SECONDS = 1.0


def world_size() -> int:
    """Return the number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def is_rank_zero() -> bool:
    """Return whether this rank is the one that writes files and prints."""
    return rank() == 0


@contextmanager
def process_group(rank: int, size: int, minutes: float) -> Iterator[None]:
    """Connect `size` ranks, which meet at MASTER_ADDR and MASTER_PORT, for the block.

    minutes: how long to wait for the others. Raises TimeoutError where they do not
    meet; inside, a call that gets no answer raises RuntimeError.
    """
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(
            backend, rank=rank, world_size=size, timeout=timedelta(minutes=minutes)
        )
    except dist.DistError as error:
        first_line = next(iter(str(error).splitlines()), "")
        raise TimeoutError(
            f"process {rank} of {size} could not meet the others within {minutes:g}"
            " minutes: one hangs, or was not started, or cannot be reached"
            f" ({first_line}); the same command goes on from the last checkpoint; if"
            " starting takes longer, raise trainer.timeout_minutes"
        ) from error
    yield
    # not after an error: the others may be gone, and NCCL would wait for them
    dist.destroy_process_group()


def all_reduce_mean(value: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return the mean over the ranks, with the same bits in each."""
    if world_size() == 1:
        return value
    # all_reduce works in place
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def all_reduce_sum(value: Num[Tensor, "*shape"]) -> Num[Tensor, "*shape"]:
    """Return the sum over the ranks; gradients flow back to all of them."""
    return value if world_size() == 1 else cast(Tensor, _AllReduceSum.apply(value))


class _AllReduceSum(torch.autograd.Function):
    """Sum values forwards and gradients backwards.

    Each rank's value is part of every rank's loss. The gradients are sums, not means:
    DDP averages those of the parameters afterwards.
    """

    # torch.distributed.nn.functional.all_reduce does the same, and is deprecated

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def any_rank(*flags: bool) -> list[bool]:
    """Return for each flag whether it is set on any rank."""
    if world_size() == 1:
        return list(flags)
    # one message for all flags: the maximum of 0 and 1 is "or"
    raised = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(raised, op=dist.ReduceOp.MAX)
    return [bool(flag) for flag in raised]


def first_non_none(content: Any) -> Any:
    """Return the content of the first rank that has one; None where none has."""
    if world_size() == 1:
        return content
    # pickled: for small things only
    contents: list[Any] = [None] * world_size()
    dist.all_gather_object(contents, content)
    return next((each for each in contents if each is not None), None)


def broadcast(content: Any = None) -> Any:
    """Return rank zero's content on every rank; the others need not pass any."""
    if world_size() == 1:
        return content
    box = [content]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def on_rank_zero(compute: Callable[[], Result]) -> Result:
    """Call `compute` on rank zero only and return its result on every rank."""
    return broadcast(compute() if is_rank_zero() else None)


def on_rank_zero_at_length(
    compute: Callable[[Callable[[], None]], Result],
) -> Result:
    """Do what `on_rank_zero` does, for what takes longer than ranks wait for others.

    compute: is given a function, which it calls often enough: the others then hear that
    rank zero still works, at most once in KEEP_ALIVE_SECONDS.
    """
    if not is_rank_zero():
        is_done, result = False, None
        while not is_done:
            is_done, result = broadcast()
        return cast(Result, result)
    said = time.monotonic()

    def keep_alive() -> None:
        nonlocal said
        if time.monotonic() - said >= KEEP_ALIVE_SECONDS:
            broadcast((False, None))
            said = time.monotonic()

    result = compute(keep_alive)
    broadcast((True, result))
    return result


def gather_interleaved(rows_N: Tensor) -> Tensor:
    """Return all rows in order, on every rank.

    Rank r of w holds rows r, r + w, r + 2 w, ..., on the CPU.
    """
    if world_size() == 1:
        return rows_N
    sizes: list[Any] = [None] * world_size()
    dist.all_gather_object(sizes, len(rows_N))
    # all_gather takes tensors of one shape
    padded = rows_N.new_zeros((max(sizes), *rows_N.shape[1:]))
    padded[: len(rows_N)] = rows_N
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded.contiguous())
    return _interleave(parts, sizes)


def _interleave(parts: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    rows = parts[0].new_empty((sum(sizes), *parts[0].shape[1:]))
    for r, (part, size) in enumerate(zip(parts, sizes, strict=True)):
        rows[r :: len(parts)] = part[:size]
    return rows


def full_tensor(value: Tensor) -> Tensor:
    """Return the whole of a sharded tensor; all ranks must call it."""
    return value.full_tensor() if isinstance(value, DTensor) else value
