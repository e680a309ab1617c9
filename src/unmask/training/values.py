"""Code of the user's runs with values, also where models are counted without them.

Prices and FLOPs are counted on modules whose tensors have shapes alone. A constructor
or a sampler of the user's may read values, and keep tensors for later calls.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily


@contextmanager
def with_values() -> Iterator[None]:
    """Make tensors on the CPU, with values, whatever mode is active outside."""
    with unset_fake_temporarily(), torch.device("cpu"):
        yield


def drop_values(module: nn.Module) -> None:
    """Remake parameters and buffers as the active mode makes tensors.

    Where that is with values, nothing is changed.
    """
    example = torch.empty(0)
    if not (example.is_meta or isinstance(example, FakeTensor)):
        return
    # one parameter may have several names
    remade: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                part._parameters[name] = remade.setdefault(
                    id(value),
                    nn.Parameter(
                        torch.empty(value.shape, dtype=value.dtype), value.requires_grad
                    ),
                )
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
