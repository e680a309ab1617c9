"""Parts of a transformer block as autograd functions, each with its own backward pass.

Matrix products are in autocast's type where that is on; residuals and LayerNorms are
in the type of the tokens. In one type a LayerNorm is computed again in the backward
pass, which takes less than to keep its output in memory.

Axes are named as in unmask.blocks.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from unmask import kernels

aten = torch.ops.aten


class ProductAttention(torch.autograd.Function):
    """Attention as two batched products and a softmax.

    Takes a query (B, M, D) or None, then packed queries, keys and values (B, T, O);
    returns (B, M, D).
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor | None, packed: Tensor, heads: int) -> Tensor:
        if query is None:
            query_KMd, key_KTd, value_KTd = _heads_first(packed, 3, heads)
        else:
            (query_KMd,) = _heads_first(query, 1, heads)
            key_KTd, value_KTd = _heads_first(packed, 2, heads)
        ctx.heads = heads
        ctx.is_packed = query is None
        scores_KMT = _scaled_product(query_KMd, key_KTd.transpose(1, 2))
        share_KMT = scores_KMT.softmax(2, dtype=packed.dtype)
        ctx.save_for_backward(query_KMd, key_KTd, value_KTd, share_KMT)
        return _heads_last(torch.bmm(share_KMT, value_KTd)[None], heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:
        query_KMd, key_KTd, value_KTd, share_KMT = ctx.saved_tensors
        (grad_KMd,) = _heads_first(grad, 1, ctx.heads)
        scores_KMT = aten._softmax_backward_data(
            torch.bmm(grad_KMd, value_KTd.transpose(1, 2)),
            share_KMT,
            2,
            share_KMT.dtype,
        )
        # written where heads_last finds them side by side
        grads = key_KTd.new_empty(2 + ctx.is_packed, *key_KTd.shape)
        of_query = grads[0] if ctx.is_packed else torch.empty_like(query_KMd)
        _scaled_product(scores_KMT, key_KTd, d=key_KTd.shape[2], out=of_query)
        _scaled_product(
            scores_KMT.transpose(1, 2), query_KMd, d=key_KTd.shape[2], out=grads[-2]
        )
        torch.bmm(share_KMT.transpose(1, 2), grad_KMd, out=grads[-1])
        packed = _heads_last(grads, ctx.heads)
        if ctx.is_packed:
            return None, packed, None
        return _heads_last(of_query[None], ctx.heads), packed, None


class NormLinear(torch.autograd.Function):
    """A LayerNorm and the linear layer after it.

    Takes tokens (B, T, D), scale, shift and eps of the norm, weight and bias.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        eps: float,
        weight: Tensor,
        bias: Tensor,
    ) -> Tensor:
        norm, normed = _norm(x, scale, shift, eps)
        weight = weight.to(normed.dtype)
        norm.save(ctx, weight)
        with _no_autocast():
            out = kernels.linear(normed, weight, bias.to(normed.dtype))
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        norm, (weight,) = _Norm.saved(ctx)
        grad_NO = grad.reshape(-1, grad.shape[-1])
        of_layer: Grads = (None, None)
        if ctx.needs_input_grad[4]:
            of_layer = _layer_grads(grad_NO, norm.output(), norm.x.dtype)
        of_norm = norm.grads(grad_NO, weight, ctx.needs_input_grad[:3])
        of_x = None if of_norm[0] is None else of_norm[0].view(*grad.shape[:-1], -1)
        return of_x, *of_norm[1:], None, *of_layer


class LinearAdd(torch.autograd.Function):
    """The linear layer at the end of a residual branch, and the sum.

    Takes tokens (B, T, D), weight and bias, the residual (B, T, O), and what each
    image's branch is multiplied by (B) or None.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        residual: Tensor,
        scale_B: Tensor | None,
    ) -> Tensor:
        x_ND = x.reshape(-1, x.shape[-1])
        cast = weight.to(x.dtype)
        ctx.dtype = weight.dtype
        ctx.save_for_backward(x_ND, cast, scale_B)
        with _no_autocast():
            return _add_branch(x_ND, cast, bias, residual, scale_B)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, weight, scale_B = ctx.saved_tensors
        grad_NO = _branch_grad(grad, scale_B, weight.dtype)
        of_x = None
        of_layer: Grads = (None, None)
        if ctx.needs_input_grad[0]:
            of_x = kernels.linear(grad_NO, weight.t(), None)
            of_x = of_x.view(*grad.shape[:-1], -1)
        if ctx.needs_input_grad[1]:
            of_layer = _layer_grads(grad_NO, x_ND, ctx.dtype)
        return of_x, *of_layer, grad, None


class MlpAdd(torch.autograd.Function):
    """The second half of a block: LayerNorm, MLP with GELU, and the sum.

    Takes tokens (B, T, D), scale, shift and eps of the norm, what each image's branch
    is multiplied by (B) or None, and weight and bias of both layers.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        eps: float,
        scale_B: Tensor | None,
        *layers: Tensor,
    ) -> Tensor:
        norm, normed = _norm(x, scale, shift, eps)
        weight1, bias1, weight2, bias2 = (layer.to(normed.dtype) for layer in layers)
        with _no_autocast():
            hidden = kernels.linear(normed, weight1, bias1)
            active = F.gelu(hidden)
            norm.save(ctx, hidden, active, weight1, weight2, scale_B)
            return _add_branch(active, weight2, bias2, x, scale_B)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        norm, saved = _Norm.saved(ctx)
        hidden, active, weight1, weight2, scale_B = saved
        needs = ctx.needs_input_grad
        grad_NO = _branch_grad(grad, scale_B, weight2.dtype)
        of_layers: list[Grads] = [(None, None), (None, None)]
        if needs[7]:
            of_layers[1] = _layer_grads(grad_NO, active, norm.x.dtype)
        of_hidden = kernels.linear(grad_NO, weight2.t(), None)
        aten.gelu_backward.grad_input(of_hidden, hidden, grad_input=of_hidden)
        if needs[5]:
            of_layers[0] = _layer_grads(of_hidden, norm.output(), norm.x.dtype)
        of_norm = norm.grads(of_hidden, weight1, needs[:3])
        of_x = None if of_norm[0] is None else of_norm[0].view_as(grad).add_(grad)
        return of_x, *of_norm[1:], None, None, *of_layers[0], *of_layers[1]


Grads = tuple[Tensor | None, Tensor | None]


class _Norm(NamedTuple):
    """A LayerNorm's input (N, D), statistics and parameters.

    normed: its output, where that is kept.
    """

    x: Tensor
    mean: Tensor
    inverse: Tensor
    scale: Tensor
    shift: Tensor
    normed: Tensor | None
    eps: float

    def save(self, ctx: Any, *others: Tensor | None) -> None:
        ctx.eps = self.eps
        ctx.save_for_backward(*self[:-1], *others)

    @classmethod
    def saved(cls, ctx: Any) -> tuple["_Norm", Sequence[Any]]:
        """Return what `save` has saved: the norm, and the others."""
        tensors = ctx.saved_tensors
        count = len(cls._fields) - 1
        return cls._make([*tensors[:count], ctx.eps]), tensors[count:]

    def output(self) -> Tensor:
        if self.normed is not None:
            return self.normed
        shape = self.x.shape[-1:]
        return torch.native_layer_norm(self.x, shape, self.scale, self.shift, self.eps)[
            0
        ]

    def grads(
        self, grad_NO: Tensor, weight_OD: Tensor, needs: Sequence[bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of input, scale and shift from those of the layer."""
        if not any(needs):
            return None, None, None
        of_output = kernels.linear(grad_NO, weight_OD.t(), None).to(self.x.dtype)
        return aten.native_layer_norm_backward(
            of_output,
            self.x,
            self.x.shape[-1:],
            self.mean,
            self.inverse,
            self.scale,
            self.shift,
            list(needs),
        )


def _norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> tuple[_Norm, Tensor]:
    """Return the norm of tokens, to be saved, and its output in autocast's type."""
    x_ND = x.reshape(-1, x.shape[-1])
    with _no_autocast():
        normed, mean, inverse = torch.native_layer_norm(
            x_ND, x_ND.shape[-1:], scale, shift, eps
        )
    kept = None
    if torch.is_autocast_enabled("cpu"):
        normed = kept = normed.to(torch.get_autocast_dtype("cpu"))
    return _Norm(x_ND, mean, inverse, scale, shift, kept, eps), normed


def _no_autocast() -> torch.autocast:
    return torch.autocast("cpu", enabled=False)


def _heads_first(packed_BTO: Tensor, parts: int, heads: int) -> Tensor:
    """Return (parts, B * H, T, d)."""
    split = packed_BTO.unflatten(2, (parts, heads, -1)).permute(2, 0, 3, 1, 4)
    return split.reshape(parts, -1, *split.shape[3:])


def _heads_last(parts_PKTd: Tensor, heads: int) -> Tensor:
    """Return (B, T, parts * D): the inverse of _heads_first."""
    split = parts_PKTd.unflatten(1, (-1, heads)).permute(1, 3, 0, 2, 4)
    return split.reshape(*split.shape[:2], -1)


def _scaled_product(
    a: Tensor, b: Tensor, d: int | None = None, out: Tensor | None = None
) -> Tensor:
    """Return a b / sqrt(d), by default of the width of a."""
    ignored = a.new_empty(1, 1, 1) if out is None else out
    scale = (d or a.shape[2]) ** -0.5
    with _no_autocast():
        return torch.baddbmm(ignored, a, b, beta=0, alpha=scale, out=out)


def _add_branch(
    x_ND: Tensor,
    weight_OD: Tensor,
    bias_O: Tensor,
    residual: Tensor,
    scale_B: Tensor | None,
) -> Tensor:
    """Return residual + (x W^T + b) times the scale."""
    bias_O = bias_O.to(x_ND.dtype)
    if scale_B is None:
        added_NO = residual.reshape(-1, residual.shape[-1])
        return kernels.linear_add(x_ND, weight_OD, bias_O, added_NO).view_as(residual)
    branch = kernels.linear(x_ND, weight_OD, bias_O).view_as(residual)
    return torch.addcmul(residual, branch.to(residual.dtype), scale_B[:, None, None])


def _branch_grad(grad: Tensor, scale_B: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return the gradient (N, O) of the branch from that of the sum."""
    if scale_B is not None:
        grad = grad * scale_B[:, None, None]
    return grad.reshape(-1, grad.shape[-1]).to(dtype)


def _layer_grads(grad_NO: Tensor, x_ND: Tensor, dtype: torch.dtype) -> Grads:
    """Return the gradients of a linear layer's weight and bias."""
    return (grad_NO.t() @ x_ND).to(dtype), grad_NO.sum(0).to(dtype)
