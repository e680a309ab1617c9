"""Transformer blocks: timm's, with a faster way to the same numbers on a CPU.

Each half of a block is a few autograd functions, which save less for the backward pass
and copy less than its operations one by one. Equal to timm's block up to rounding,
gradients included.

Names end in their axes: N tokens of all images, T of one, M of those that are asked
for, D width, O outputs, H heads, d width of a head, K images times heads.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from unmask import kernels
from unmask.drop_path import DropPath
from unmask.merged import LinearAdd, MlpAdd, NormLinear, ProductAttention


class TransformerBlock(Block):
    """timm's pre-norm block; its weights and their names are timm's."""

    def forward(
        self, x: Float[Tensor, "B T D"], *args: Any, **named: Any
    ) -> Float[Tensor, "B T D"]:
        if args or named or not self._can_merge(x):
            return super().forward(x, *args, **named)
        return self._merged(x, 0)

    def outputs_after(
        self, tokens_BTD: Float[Tensor, "B T D"], skip: int
    ) -> Float[Tensor, "B M D"]:
        """Return the block's output for the tokens after the first `skip`.

        Nobody reads the output of the others, so only their keys and values are
        computed. Equal to the whole block up to rounding, gradients included.
        """
        if self._can_merge(tokens_BTD):
            return self._merged(tokens_BTD, skip)
        normed_BTD = self.norm1(tokens_BTD)
        query_layer, kv_layer = self._split_qkv(tokens_BTD.shape[2])
        query_BMD = F.linear(normed_BTD[:, skip:], *query_layer)
        keys_values_BTO = F.linear(normed_BTD, *kv_layer)
        mixed_BMD = attend(query_BMD, keys_values_BTO, self.attn.num_heads)
        hidden_BMD = tokens_BTD[:, skip:] + self.attn.proj(mixed_BMD)
        return hidden_BMD + self.mlp(self.norm2(hidden_BMD))

    def _can_merge(self, x: Tensor) -> bool:
        return _can_merge(self.attn.qkv.weight, x)

    def _split_qkv(self, width: int) -> list[tuple[Tensor, Tensor]]:
        """Return weight and bias of the queries, and those of keys and values."""
        # timm stores queries, keys and values as one matrix, in this order
        sizes = [width, 2 * width]
        qkv = self.attn.qkv
        return list(zip(qkv.weight.split(sizes), qkv.bias.split(sizes), strict=True))

    def _merged(self, x: Tensor, skip: int) -> Tensor:
        attention, mlp = self.attn, self.mlp
        kept = x[:, skip:].contiguous()
        norm1 = (self.norm1.weight, self.norm1.bias, self.norm1.eps)
        if skip:
            query_layer, kv_layer = self._split_qkv(x.shape[2])
            query = NormLinear.apply(kept, *norm1, *query_layer)
            packed = NormLinear.apply(x, *norm1, *kv_layer)
        else:
            query = None
            packed = NormLinear.apply(
                x, *norm1, attention.qkv.weight, attention.qkv.bias
            )
        x = LinearAdd.apply(
            attend(query, packed, attention.num_heads),
            attention.proj.weight,
            attention.proj.bias,
            kept,
            _branch_scale(self.drop_path1, x.dtype),
        )
        return MlpAdd.apply(
            x,
            *(self.norm2.weight, self.norm2.bias, self.norm2.eps),
            _branch_scale(self.drop_path2, x.dtype),
            *(mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias),
        )


class CrossAttention(nn.Module):
    """Attention of queries to the tokens of another sequence, with biases."""

    def __init__(self, width: int, in_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(in_width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self, x_BMD: Float[Tensor, "B M D"], source_BTE: Float[Tensor, "B T E"]
    ) -> Float[Tensor, "B M D"]:
        packed = self.key_value(source_BTE)
        return self.proj(attend(self.query(x_BMD), packed, self.heads))


class CrossBlock(nn.Module):
    """A pre-norm block whose tokens attend to another sequence, never to each other.

    CrossMAE (Fu et al. 2024, arXiv 2401.14391, Sec. 3.2). norms_source: normalise the
    other sequence by a LayerNorm of the block's own.
    """

    def __init__(
        self,
        width: int,
        in_width: int,
        heads: int,
        mlp_ratio: float,
        norm_layer: Callable[[int], nn.LayerNorm],
        norms_source: bool,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(width)
        self.norm_source = norm_layer(in_width) if norms_source else None
        self.attn = CrossAttention(width, in_width, heads)
        self.norm2 = norm_layer(width)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(
        self, x_BMD: Float[Tensor, "B M D"], source_BTE: Float[Tensor, "B T E"]
    ) -> Float[Tensor, "B M D"]:
        weight = self.attn.query.weight
        if _can_merge(weight, x_BMD) and _can_merge(weight, source_BTE):
            return self._merged(x_BMD, source_BTE)
        if self.norm_source is not None:
            source_BTE = self.norm_source(source_BTE)
        x_BMD = x_BMD + self.attn(self.norm1(x_BMD), source_BTE)
        return x_BMD + self.mlp(self.norm2(x_BMD))

    def _merged(self, x: Tensor, source: Tensor) -> Tensor:
        attention, mlp = self.attn, self.mlp
        packed = (
            attention.key_value(source)
            if self.norm_source is None
            else _norm_linear(source, self.norm_source, attention.key_value)
        )
        query = _norm_linear(x, self.norm1, attention.query)
        mixed = attend(query, packed, attention.heads)
        x = LinearAdd.apply(
            mixed, attention.proj.weight, attention.proj.bias, x.contiguous(), None
        )
        return MlpAdd.apply(
            x,
            *(self.norm2.weight, self.norm2.bias, self.norm2.eps, None),
            *(mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias),
        )


def _norm_linear(x: Tensor, norm: nn.LayerNorm, layer: nn.Linear) -> Tensor:
    return NormLinear.apply(
        x, norm.weight, norm.bias, norm.eps, layer.weight, layer.bias
    )


def _can_merge(weight: Tensor, x: Tensor) -> bool:
    """Return whether the parts of a block are merged functions for these tokens."""
    return (
        kernels.in_use.blocks == "merged"
        and x.device.type == "cpu"
        # a share of FSDP's is gathered by the forward passes of the block's parts
        and not isinstance(weight, DTensor)
        and weight.dtype == x.dtype
        and not torch.compiler.is_compiling()
    )


def compile_blocks(
    model: nn.Module, backend: str | Callable[..., Any] = "inductor"
) -> None:
    """Let torch compile the blocks, one graph for all that have one size.

    Another number of tokens, as of another mask ratio, makes one more graph, which
    takes any number. The last block of a decoder is not compiled.
    """
    for module in model.modules():
        if isinstance(module, TransformerBlock | CrossBlock):
            module.compile(backend=backend)


def _branch_scale(drop_path: nn.Module, dtype: torch.dtype) -> Tensor | None:
    """Return what each image's branch is multiplied by; None where nothing drops."""
    return drop_path.branch_scale(dtype) if isinstance(drop_path, DropPath) else None


def attend(
    query_BMD: Float[Tensor, "B M D"] | None,
    packed_BTO: Float[Tensor, "B T O"],
    heads: int,
) -> Float[Tensor, "B M D"]:
    """Mix values by attention, with the kernel that was chosen for so many keys.

    packed: queries, keys and values, side by side; keys and values alone where there
    is a query.
    """
    is_cpu = packed_BTO.device.type == "cpu"
    if is_cpu and kernels.attends_by_products(packed_BTO.shape[1], packed_BTO.dtype):
        return ProductAttention.apply(query_BMD, packed_BTO, heads)
    parts = packed_BTO.unflatten(2, (3 if query_BMD is None else 2, heads, -1))
    # (B, T, parts, H, d) -> (parts, B, H, T, d)
    parts = parts.permute(2, 0, 3, 1, 4)
    if query_BMD is not None:
        query = query_BMD.unflatten(2, (heads, -1)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(query, *parts)
    else:
        mixed = F.scaled_dot_product_attention(*parts)
    return mixed.transpose(1, 2).flatten(2)
