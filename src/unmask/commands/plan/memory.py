"""Memory of a training step, by part: what autograd keeps is listed on the very modules that train, without values.

The most is needed at the end of the forward pass: weights, the last step's gradients, the optimiser's state and
everything that the backward pass will read are there at once, and the working space of the layer that is computed.
"""

import weakref
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unmask.initialisation import without_values
from unmask.training.outline import Outline

FLOAT = 4  # bytes
# bytes of state a trained parameter: two moments, or one
STATE = {"adamw": 2 * FLOAT, "lars": FLOAT}
FREE = 0.1  # share of a card that is left to the allocator's gaps and the driver
# images: two batches tell what grows with the batch from what does not
FEW, MORE = 32, 64


@dataclass(frozen=True)
class Memory:
    """Bytes; those from encoder on are of one image.

    casts: bfloat16 copies of the weights; encoder, after (decoder or head): what the backward pass will read;
    working: what comes and goes within a layer, all there is of a frozen encoder.
    """

    weights: float
    gradients: float
    optimizer: float
    casts: float
    encoder: float
    after: float
    working: float
    inputs: float

    def parts(self, batch: int) -> dict[str, float]:
        """By name, for a batch of that many images on the device."""
        return {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimiser state": self.optimizer,
            "bf16 copies of weights": self.casts,
            "kept by the encoder": batch * self.encoder,
            "kept by decoder or head": batch * self.after,
            "working space": batch * self.working,
            "images and masks": batch * self.inputs,
        }

    def peak(self, batch: int) -> float:
        return sum(self.parts(batch).values())

    def largest(self, capacity: float) -> int:
        """Images that fit a card of so many bytes, a tenth of it left free; 0 where not even one does."""
        return max(
            0,
            int(
                ((1 - FREE) * capacity - self.peak(0)) // (self.peak(1) - self.peak(0))
            ),
        )


def micro_batch(memory: Memory, capacity: float, batch: int) -> int:
    """The largest part of a device's batch that divides it and fits; 0 where not even one image does."""
    most = min(memory.largest(capacity), batch)
    return next((size for size in range(most, 0, -1) if batch % size == 0), 0)


def tally(
    make: Callable[[], Outline],
    precision: str,
    optimizer: str = "adamw",
    device: str = "cuda",
    average: bool = False,
) -> Memory:
    """The parts for precision 32-true or bf16-mixed; average: whether a second copy of the weights is kept.

    device: `cpu` where short sequences take the explicit attention, as there.
    """
    half = precision == "bf16-mixed"
    with FakeTensorMode(), torch.device(device), without_values(), FusedAttention():
        outline = make()
        small, large = (
            _kept(outline, batch, device if half else None) for batch in (FEW, MORE)
        )
        parameters = list(outline.model.parameters())
    slope = {name: (large[name] - small[name]) / (MORE - FEW) for name in small}
    weights = FLOAT * sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    return Memory(
        weights * (2 if average else 1),
        FLOAT * trained,
        STATE[optimizer] * trained,
        small["most"] - FEW * slope["most"] if half else 0.0,
        slope["encoder"],
        slope["after"],
        slope["most"] - slope["encoder"] - slope["after"],
        slope["inputs"],
    )


def _kept(outline: Outline, batch: int, autocast: str | None) -> dict[str, float]:
    """Bytes of a forward pass: what autograd keeps, each storage once, by the part that made it; the most at a time."""
    model = outline.model.train()
    inputs = outline.inputs(batch)
    seen = {_storage(t) for t in [*model.parameters(), *model.buffers(), *inputs]}
    bytes_of, part, living = {"encoder": 0.0, "after": 0.0}, "encoder", Living(seen)

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in seen:
            # the loss keeps it alive, so no other will have its address
            seen.add(_storage(tensor))
            bytes_of[part] += tensor.untyped_storage().nbytes()
        return tensor

    def enter(*_: Any) -> None:
        nonlocal part
        part = "after"

    handles = [module.register_forward_pre_hook(enter) for module in outline.after]
    with (
        _autocast(autocast),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        living,
    ):
        loss = outline.loss(inputs)
    for handle in handles:
        handle.remove()
    assert loss.ndim == 0
    own = {_storage(t): float(t.untyped_storage().nbytes()) for t in inputs}
    return {**bytes_of, "most": float(living.most), "inputs": sum(own.values())}


class Living(TorchDispatchMode):
    """Adds up the storages that come and go; `most` is the largest sum there was."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.known, self.now, self.most = frozenset(known), 0, 0
        self.there: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self.there or storage._cdata in self.known:
            return
        self.there.add(storage._cdata)
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())

    def _gone(self, address: int, size: int) -> None:
        self.there.discard(address)
        self.now -= size


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@contextmanager
def _autocast(device: str | None) -> Any:
    """torch.autocast refuses CUDA on a machine without one, though no arithmetic is asked for."""
    if device is None:
        yield
        return
    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    torch.set_autocast_enabled(device, True)
    torch.set_autocast_dtype(device, torch.bfloat16)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])


class _Fused(torch.autograd.Function):
    """What a fused kernel keeps for its backward pass: query, key, value, output and one float a row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        mixed = torch.empty_like(query)
        ctx.save_for_backward(
            query,
            key,
            value,
            mixed,
            query.new_empty(query.shape[:-1], dtype=torch.float32),
        )
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError("counted, never trained")


class FusedAttention(TorchFunctionMode):
    """Attention as the fused kernels have it; without values torch would take the kernel that keeps every score."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            query, key, value = args[:3]
            return _Fused.apply(query, key, value)
        return func(*args, **(kwargs or {}))
