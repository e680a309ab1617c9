"""Which of several equal computations is used where a CPU offers more than one.

They differ by rounding alone. Those in use hold for all models of the process;
unmask.training.kernel_choice measures which are the fastest.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Attention = Literal["products", "fused"]
Linear = Literal["torch", "onednn"]
# Longest sequence whose attention is plain products where nobody has measured: torch's
# fused kernel is made for long ones, and is slower in bfloat16 than in float32.
MAX_PRODUCT_TOKENS = {torch.bfloat16: 256}
MAX_PRODUCT_TOKENS_FLOAT32 = 64


@dataclass(frozen=True)
class Kernels:
    """Name a kernel for each kind of work.

    blocks: the parts of a transformer block as merged functions (unmask.merged), or
    timm's operations one by one. linear: products of float32 matrices by the library
    that torch takes, or by oneDNN. attention: for sequences of so many tokens. threads:
    that compute; None: as many as torch takes.
    """

    blocks: Literal["merged", "timm"] = "merged"
    linear: Linear = "torch"
    attention: dict[int, Attention] = field(default_factory=dict)
    threads: int | None = None


in_use = Kernels()


def use(kernels: Kernels) -> None:
    """Compute with these from now on."""
    global in_use
    in_use = kernels
    if kernels.threads:
        torch.set_num_threads(kernels.threads)


@contextmanager
def using(kernels: Kernels) -> Iterator[None]:
    """Compute with these within the block."""
    before, threads = in_use, torch.get_num_threads()
    use(kernels)
    try:
        yield
    finally:
        use(before)
        torch.set_num_threads(threads)


def has_onednn() -> bool:
    """Return whether this torch has oneDNN's products, which have no public name."""
    has_name = hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return torch.backends.mkldnn.is_available() and has_name


def usual_attention(num_tokens: int, dtype: torch.dtype) -> Attention:
    """Return the kernel for so many tokens where nobody has measured."""
    limit = MAX_PRODUCT_TOKENS.get(dtype, MAX_PRODUCT_TOKENS_FLOAT32)
    return "products" if num_tokens <= limit else "fused"


def attends_by_products(num_tokens: int, dtype: torch.dtype) -> bool:
    """Return whether attention to so many tokens is plain products on a CPU."""
    usual = usual_attention(num_tokens, dtype)
    return in_use.attention.get(num_tokens, usual) == "products"


def linear(x_ND: Tensor, weight_OD: Tensor, bias_O: Tensor | None) -> Tensor:
    """Return x W^T + b (N, O)."""
    if _by_onednn(x_ND):
        return torch.ops.mkldnn._linear_pointwise(
            x_ND, weight_OD, bias_O, "none", [], ""
        )
    if bias_O is None:
        return x_ND @ weight_OD.t()
    return torch.addmm(bias_O, x_ND, weight_OD.t())


def linear_add(
    x_ND: Tensor, weight_OD: Tensor, bias_O: Tensor, added_NO: Tensor
) -> Tensor:
    """Return x W^T + b + added, in the type of what is added."""
    if _by_onednn(x_ND):
        return torch.ops.mkldnn._linear_pointwise.binary(
            x_ND, added_NO, weight_OD, bias_O, "add"
        )
    if x_ND.dtype == added_NO.dtype:
        return (added_NO + bias_O).addmm_(x_ND, weight_OD.t())
    return added_NO + torch.addmm(bias_O, x_ND, weight_OD.t())


def _by_onednn(x: Tensor) -> bool:
    return in_use.linear == "onednn" and x.dtype == torch.float32
