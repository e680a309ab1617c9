"""What a layer of the encoder attends to."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.encoder import AnyEncoder


@torch.no_grad()
def attention_weights(
    encoder: AnyEncoder, images_BCHW: Float[Tensor, "B C H W"], layer: int
) -> Float[Tensor, "B heads T T"]:
    """Return the softmax of one layer: of each token (query), over all tokens (keys).

    All patches are visible. layer: from 1 on. Raises ValueError beyond the depth, and
    for blocks that are not timm's.
    """
    block = _block(encoder, layer)
    attention: Any = getattr(block, "attn", None)
    if not hasattr(attention, "qkv"):
        raise ValueError(
            f"blocks of type {type(block).__name__} have no attn.qkv, as timm's have;"
            " reconstructions and features do without"
        )
    tokens_BTD = encoder.unnormalised_tokens(images_BCHW, depth=layer - 1)
    packed = attention.qkv(block.norm1(tokens_BTD))
    # (B, T, 3, heads, d) -> (3, B, heads, T, d)
    parts = packed.unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    query, key = attention.q_norm(parts[0]), attention.k_norm(parts[1])
    return ((query * attention.scale) @ key.transpose(-2, -1)).softmax(dim=-1)


def attention_map(
    weights_BATT: Float[Tensor, "B heads T T"],
    grid: tuple[int, int],
    head: int | None,
    query: int | None,
) -> Float[Tensor, "rows cols"]:
    """Return how the first image's query attends to its patches, which sums to <= 1.

    head: from 1 on; None: the mean of all. query: the patch, from 0 on in reading
    order; None: the class token. Raises ValueError for one that is not there.
    """
    heads, tokens = weights_BATT.shape[1:3]
    patches = grid[0] * grid[1]
    # tokens before the patches: the class token, or several
    prefix = tokens - patches
    if head is not None and not 1 <= head <= heads:
        raise ValueError(f"head {head}: this layer has {heads}")
    if query is not None and not 0 <= query < patches:
        raise ValueError(f"patch {query + 1}: this picture has {patches}")
    of_query = weights_BATT[0, :, 0 if query is None else prefix + query, prefix:]
    chosen = of_query.mean(dim=0) if head is None else of_query[head - 1]
    return chosen.view(grid)


@torch.no_grad()
def layer_tokens(
    encoder: AnyEncoder, images_BCHW: Float[Tensor, "B C H W"], layer: int
) -> Float[Tensor, "B L D"]:
    """Return the patches' tokens after a layer, behind the encoder's last LayerNorm.

    layer: from 1 on; the last one is what downstream tasks see. Raises ValueError
    beyond the depth.
    """
    _block(encoder, layer)
    tokens_BTD = encoder.unnormalised_tokens(images_BCHW, depth=layer)
    patches = encoder.grid[0] * encoder.grid[1]
    return encoder.norm(tokens_BTD)[:, -patches:]


def _block(encoder: AnyEncoder, layer: int) -> Any:
    depth = len(encoder.blocks)
    if not 1 <= layer <= depth:
        raise ValueError(f"layer {layer}: this encoder has {depth}")
    return encoder.blocks[layer - 1]
