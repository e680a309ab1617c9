"""What processes that train one model together tell each other; to one that is alone each gives back what it got.

Tensors on the CPU travel by gloo, those on a GPU by NCCL; `joined` opens both.
"""

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


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def is_rank_zero() -> bool:
    """Whether this is the one that writes files and speaks."""
    return rank() == 0


@contextmanager
def process_group(rank: int, size: int, minutes: float) -> Iterator[None]:
    """Within, `size` processes can talk, at MASTER_ADDR and MASTER_PORT.

    minutes: after which one that gets no answer raises RuntimeError, TimeoutError where they never met.
    """
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(
            backend, rank=rank, world_size=size, timeout=timedelta(minutes=minutes)
        )
    except dist.DistError as error:
        raise TimeoutError(
            f"process {rank} of {size} could not meet the others within {minutes:g}"
            " minutes: one hangs, or was not started, or cannot be reached"
            f" ({next(iter(str(error).splitlines()), '')}); the same command goes on"
            " from the last checkpoint; if starting takes longer, raise"
            " trainer.timeout_minutes"
        ) from error
    yield
    # not after an error: the others may be gone, and NCCL would wait for them
    dist.destroy_process_group()


def all_reduce_mean(value: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Over the processes, the same bits in each."""
    if world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def all_reduce_sum(value: Num[Tensor, "*shape"]) -> Num[Tensor, "*shape"]:
    """Over the processes; gradients flow back to all of them."""
    return value if world_size() == 1 else cast(Tensor, _AllReduceSum.apply(value))


class _AllReduceSum(torch.autograd.Function):
    """What each process adds reaches every loss; theirs are averaged later, as DDP does."""

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
    """Each flag, raised where any process raises it."""
    if world_size() == 1:
        return list(flags)
    raised = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(raised, op=dist.ReduceOp.MAX)
    return [bool(flag) for flag in raised]


def first_non_none(content: Any) -> Any:
    """What the first process has that has something; None where none has."""
    if world_size() == 1:
        return content
    box: list[Any] = [None] * world_size()
    dist.all_gather_object(box, content)
    return next((each for each in box if each is not None), None)


def broadcast(content: Any = None) -> Any:
    """What the one that leads says; others give nothing."""
    if world_size() == 1:
        return content
    box = [content]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def on_rank_zero(find: Callable[[], Result]) -> Result:
    """What the one that leads finds; the others do not look for themselves."""
    return broadcast(find() if is_rank_zero() else None)


def gather_interleaved(rows_N: Tensor) -> Tensor:
    """All rows in order, where process r of w holds rows r, r + w, r + 2 w, ... (on the CPU)."""
    if world_size() == 1:
        return rows_N
    sizes: list[Any] = [None] * world_size()
    dist.all_gather_object(sizes, len(rows_N))
    padded = rows_N.new_zeros((max(sizes), *rows_N.shape[1:]))
    padded[: len(rows_N)] = rows_N
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded.contiguous())
    return _interleave(parts, sizes)


def _interleave(parts: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    found = parts[0].new_empty((sum(sizes), *parts[0].shape[1:]))
    for r, (part, size) in enumerate(zip(parts, sizes, strict=True)):
        found[r :: len(parts)] = part[:size]
    return found


def full_tensor(value: Tensor) -> Tensor:
    """The tensor of all shares; all processes must ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value
