"""Make a module like DALL-E's published encoder, with the same classes and names.

The classes belong to a package `dall_e`, which exists only while a file is written.
"""

import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv2d(nn.Module):
    def __init__(
        self, n_in: int, n_out: int, kw: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.n_in, self.n_out, self.kw, self.device = (
            n_in,
            n_out,
            kw,
            torch.device("cpu"),
        )
        self.use_float16, self.requires_grad = True, False
        spread = (n_in * kw**2) ** -0.5
        self.w = nn.Parameter(
            spread * torch.randn(n_out, n_in, kw, kw, generator=generator),
            requires_grad=False,
        )
        self.b = nn.Parameter(
            0.1 * torch.randn(n_out, generator=generator), requires_grad=False
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.w, self.b, padding=(self.kw - 1) // 2)


class EncoderBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int, generator: torch.Generator) -> None:
        super().__init__()
        n_hid, self.post_gain = n_out // 4, 1 / 64
        self.id_path = (
            Conv2d(n_in, n_out, 1, generator) if n_in != n_out else nn.Identity()
        )
        convs = [
            Conv2d(n_in, n_hid, 3, generator),
            Conv2d(n_hid, n_hid, 3, generator),
            Conv2d(n_hid, n_hid, 3, generator),
            Conv2d(n_hid, n_out, 1, generator),
        ]
        pairs = [
            pair
            for i, conv in enumerate(convs, 1)
            for pair in ((f"relu_{i}", nn.ReLU()), (f"conv_{i}", conv))
        ]
        self.res_path = nn.Sequential(OrderedDict(pairs))

    def forward(self, x: Tensor) -> Tensor:
        return self.id_path(x) + self.post_gain * self.res_path(x)


class Encoder(nn.Module):
    def __init__(self, n_hid: int, vocab_size: int, input_channels: int = 3) -> None:
        super().__init__()
        self.n_hid, self.vocab_size, self.device = (
            n_hid,
            vocab_size,
            torch.device("cpu"),
        )
        generator = torch.Generator().manual_seed(0)
        sizes = [(1, 1), (1, 1), (1, 2), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8)]
        blocks = [EncoderBlock(a * n_hid, b * n_hid, generator) for a, b in sizes]
        parts: list[tuple[str, nn.Module]] = [
            ("input", Conv2d(input_channels, n_hid, 7, generator))
        ]
        for group in range(4):
            inside: list[tuple[str, nn.Module]] = [
                ("block_1", blocks[2 * group]),
                ("block_2", blocks[2 * group + 1]),
            ]
            inside += [("pool", nn.MaxPool2d(kernel_size=2))] if group < 3 else []
            parts.append((f"group_{group + 1}", nn.Sequential(OrderedDict(inside))))
        head: list[tuple[str, nn.Module]] = [
            ("relu", nn.ReLU()),
            ("conv", Conv2d(8 * n_hid, vocab_size, 1, generator)),
        ]
        self.blocks = nn.Sequential(
            OrderedDict([*parts, ("output", nn.Sequential(OrderedDict(head)))])
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


@contextmanager
def package() -> Iterator[None]:
    """Make the classes above those of dall_e.encoder and dall_e.utils within the block."""
    modules = {
        Conv2d: "dall_e.utils",
        EncoderBlock: "dall_e.encoder",
        Encoder: "dall_e.encoder",
    }
    with pytest.MonkeyPatch.context() as context:
        for name in ("dall_e", "dall_e.encoder", "dall_e.utils"):
            context.setitem(sys.modules, name, ModuleType(name))
        for kind, module in modules.items():
            context.setattr(kind, "__module__", module)
            setattr(sys.modules[module], kind.__name__, kind)
        yield
