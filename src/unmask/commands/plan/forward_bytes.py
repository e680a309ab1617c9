"""Bytes of a forward pass: what autograd keeps, and the most that lives at a time."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unmask.training.outline import Outline


def count_forward_bytes(
    outline: Outline, batch: int, autocast_device: str | None
) -> dict[str, float]:
    """Count the bytes of a forward pass of `batch` images.

    encoder, after: what autograd keeps for the backward pass, by the part of the model
    that made it, each storage once. peak: the most that lives at a time. inputs: the
    batch itself.
    """
    model = outline.model.train()
    inputs = outline.inputs(batch)
    # weights and inputs are counted elsewhere
    known = {_storage_id(t) for t in [*model.parameters(), *model.buffers(), *inputs]}
    live_bytes = LiveBytes(known)
    kept_bytes = {"encoder": 0.0, "after": 0.0}
    part = "encoder"

    def keep(tensor: Tensor) -> Tensor:
        if _storage_id(tensor) not in known:
            # the loss keeps the storage alive, so no other one gets its address
            known.add(_storage_id(tensor))
            kept_bytes[part] += tensor.untyped_storage().nbytes()
        return tensor

    def leave_encoder(*_: Any) -> None:
        nonlocal part
        part = "after"

    handles = [
        module.register_forward_pre_hook(leave_encoder)
        for module in outline.after_encoder
    ]
    with (
        autocast_bf16(autocast_device),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        live_bytes,
    ):
        loss = outline.loss(inputs)
    for handle in handles:
        handle.remove()
    assert loss.ndim == 0
    # views share storages: the indices of visible and hidden patches are one tensor
    input_bytes = {_storage_id(t): float(t.untyped_storage().nbytes()) for t in inputs}
    return {
        **kept_bytes,
        "peak": float(live_bytes.peak),
        "inputs": sum(input_bytes.values()),
    }


class LiveBytes(TorchDispatchMode):
    """Add up the storages that come and go; `peak` is the largest sum."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.known = frozenset(known)
        self.live: set[int] = set()
        self.now = 0
        self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        # views and in-place operations return storages that are there already
        if storage._cdata in self.live or storage._cdata in self.known:
            return
        self.live.add(storage._cdata)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, storage._cdata, storage.nbytes())

    def _remove(self, address: int, size: int) -> None:
        self.live.discard(address)
        self.now -= size


def _storage_id(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@contextmanager
def autocast_bf16(device: str | None) -> Iterator[None]:
    """Autocast to bfloat16 on a device, also on one that this machine does not have.

    torch.autocast refuses CUDA on a machine without it, though nothing is computed.
    """
    if device is None:
        yield
        return
    was_enabled = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device)
    torch.set_autocast_enabled(device, True)
    torch.set_autocast_dtype(device, torch.bfloat16)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        # as torch.autocast does: the outermost one drops the copies of the weights
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled(device, was_enabled)
        torch.set_autocast_dtype(device, dtype)


class _FusedAttentionFunction(torch.autograd.Function):
    """Keep what a fused kernel keeps for its backward pass.

    That is query, key, value, output and one float for each row of scores.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        row_sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, row_sums)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError("outlines are counted and never trained")


class FusedAttention(TorchFunctionMode):
    """Count attention as fused kernels do it.

    For tensors without values torch would take the kernel that keeps every score.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            query, key, value = args[:3]
            return _FusedAttentionFunction.apply(query, key, value)
        return func(*args, **(kwargs or {}))
