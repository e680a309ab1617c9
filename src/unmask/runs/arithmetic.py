"""In which arithmetic a step is made: bfloat16 or float32, for the whole of it or for parts."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from unmask.tasks.again import Trained
from unmask.tasks.pretrain import Pretrain


@contextmanager
def computed(module: Trained, bfloat16: bool, exact: tuple[str, ...] = ()) -> Iterator[None]:
    """Forwards within are made as Lightning's bf16-mixed or 32-true makes them, but for the exact parts."""
    parts: list[nn.Module] = []
    if "decoder" in exact and isinstance(module, Pretrain):
        parts.append(module.model.decoder)
    if "attention" in exact:
        parts += [part.attn for part in module.modules() if isinstance(part, Block)]
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(module.device.type, torch.bfloat16, enabled=bfloat16))
        if "attention" in exact:
            stack.enter_context(PlainAttention())
        for part in parts:
            vars(part)["forward"] = partial(_exactly, part.forward)
            stack.callback(vars(part).pop, "forward")
        yield


def _exactly(forward: Any, *given: Any, **named: Any) -> Any:
    """The same function of float32 inputs, outside of autocast."""
    floats = [value.float() if isinstance(value, Tensor) and value.is_floating_point() else value for value in given]
    device = next(value for value in given if isinstance(value, Tensor)).device.type
    with torch.autocast(device, enabled=False):
        return forward(*floats, **named)


class PlainAttention(TorchFunctionMode):
    """Attention by matrix products and softmax in float32, not by a fused kernel."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        with sdpa_kernel(SDPBackend.MATH):
            return _exactly(func, *args, **(kwargs or {})).to(args[2].dtype)
