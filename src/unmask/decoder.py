"""The MAE decoder: mask tokens join the encoded patches, and the head predicts the hidden ones (MAE Sec. 3).

The encoder hands over [class, visible], or [class, visible, hidden] where it carries mask tokens itself (Table 1c).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from unmask.encoder import LayerNorm, run_blocks, transformer_blocks
from unmask.masking import Masking
from unmask.patches import sincos_2d


class Decoder(nn.Module):
    """Depth x width transformer on all patches; out_dim values are predicted for each hidden patch.

    mask_tokens: whether it adds them; not so where the encoder has carried its own.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        in_width: int,
        out_dim: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        mask_tokens: bool = True,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(in_width, width)
        self.mask_token = (
            nn.Parameter(torch.zeros(1, 1, width)) if mask_tokens else None
        )
        self.pos_embed = nn.Parameter(sincos_2d(width, grid)[None], requires_grad=False)
        self.blocks = transformer_blocks(width, depth, heads, mlp_ratio)
        self.norm = LayerNorm(width)
        self.head = nn.Linear(width, out_dim)

    def forward(
        self,
        encoded_BTD: Float[Tensor, "B T D"],
        masking: Masking,
        everywhere: bool = False,
    ) -> Float[Tensor, "B M P"]:
        """Predictions for the hidden patches, in the order of masking.masked_BM; everywhere: for all, visible first.

        Tokens stay in the order [class, visible, hidden]: attention does not mind, and nothing is shuffled back.
        """
        embedded = self.embed(encoded_BTD)
        patches = [embedded[:, 1:]]
        if self.mask_token is not None:
            patches.append(self.mask_token.expand(*masking.masked_BM.shape, -1))
        order_BL = torch.cat([masking.visible_BV, masking.masked_BM], dim=1)
        patches_BLD = torch.cat(patches, dim=1) + self.pos_embed[0, 1:][order_BL]
        tokens = torch.cat(
            [embedded[:, :1] + self.pos_embed[:, :1], patches_BLD], dim=1
        )
        decoded_BMD = last_block(
            self.blocks[-1],
            run_blocks(self.blocks[:-1], tokens),
            unread(masking, everywhere),
        )
        return self.head(self.norm(decoded_BMD))


class LinearHead(nn.Module):
    """A decoder of depth 0: each token predicts its own patch, so the encoder must carry the mask tokens."""

    def __init__(self, in_width: int, out_dim: int) -> None:
        super().__init__()
        self.head = nn.Linear(in_width, out_dim)

    def forward(
        self,
        encoded_BTD: Float[Tensor, "B T D"],
        masking: Masking,
        everywhere: bool = False,
    ) -> Float[Tensor, "B M P"]:
        return self.head(encoded_BTD[:, unread(masking, everywhere) :])


def unread(masking: Masking, everywhere: bool) -> int:
    """How many tokens come before the first whose prediction is asked for: the class token, the visible patches."""
    return 1 if everywhere else 1 + masking.visible_BV.shape[1]


def last_block(
    block: nn.Module, tokens_BTD: Float[Tensor, "B T D"], skip: int
) -> Float[Tensor, "B M D"]:
    """What the block makes of the tokens after the first `skip`: nobody reads the others, so only their keys and
    values are computed. Equal to the whole block, to rounding, gradients included.
    """
    assert isinstance(block, Block)
    normed_BTD, attention = block.norm1(tokens_BTD), block.attn
    width, heads = tokens_BTD.shape[2], attention.num_heads
    (query_weight, other_weight), (query_bias, other_bias) = (
        part.split([width, 2 * width])
        for part in (attention.qkv.weight, attention.qkv.bias)
    )
    query = (
        F.linear(normed_BTD[:, skip:], query_weight, query_bias)
        .unflatten(2, (heads, -1))
        .transpose(1, 2)
    )
    keys_values = F.linear(normed_BTD, other_weight, other_bias).unflatten(
        2, (2, heads, -1)
    )
    key, value = keys_values.permute(2, 0, 3, 1, 4)
    mixed_BMD = (
        F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    )
    hidden_BMD = tokens_BTD[:, skip:] + attention.proj(mixed_BMD)
    return hidden_BMD + block.mlp(block.norm2(hidden_BMD))
