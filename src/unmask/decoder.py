"""The MAE decoder: predicts the hidden patches from the encoded visible ones.

MAE Sec. 3, "MAE decoder". The encoder hands over the tokens [class, visible], or
[class, visible, hidden] where it carries mask tokens itself (Table 1c).
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
    """Transformer on all patches that predicts `out_dim` values for each hidden one.

    mask_tokens: whether it adds a learned token for each hidden patch; False where the
    encoder has carried mask tokens of its own.
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
        predict_visible: bool = False,
    ) -> Float[Tensor, "B M P"]:
        """Predict the hidden patches, in the order of masking.hidden_BM.

        predict_visible: predict all patches, the visible ones first.
        """
        embedded = self.embed(encoded_BTD)
        patches = [embedded[:, 1:]]
        if self.mask_token is not None:
            patches.append(self.mask_token.expand(*masking.hidden_BM.shape, -1))
        # Tokens stay in the order [class, visible, hidden]: attention does not depend
        # on it, so only the positions are brought into this order, not the tokens into
        # the image's as in the official port.
        order_BL = torch.cat([masking.visible_BV, masking.hidden_BM], dim=1)
        patches_BLD = torch.cat(patches, dim=1) + self.pos_embed[0, 1:][order_BL]
        cls_token = embedded[:, :1] + self.pos_embed[:, :1]
        tokens = torch.cat([cls_token, patches_BLD], dim=1)
        tokens = run_blocks(self.blocks[:-1], tokens)
        decoded_BMD = run_last_block(
            self.blocks[-1], tokens, num_unread_tokens(masking, predict_visible)
        )
        return self.head(self.norm(decoded_BMD))


class LinearHead(nn.Module):
    """A decoder of depth 0: each token predicts its own patch.

    The encoder must carry the mask tokens, or there is no token for a hidden patch.
    """

    def __init__(self, in_width: int, out_dim: int) -> None:
        super().__init__()
        self.head = nn.Linear(in_width, out_dim)

    def forward(
        self,
        encoded_BTD: Float[Tensor, "B T D"],
        masking: Masking,
        predict_visible: bool = False,
    ) -> Float[Tensor, "B M P"]:
        """Predict as Decoder.forward does."""
        return self.head(encoded_BTD[:, num_unread_tokens(masking, predict_visible) :])


def num_unread_tokens(masking: Masking, predict_visible: bool) -> int:
    """Return how many tokens (class, visible) precede those that are predicted."""
    return 1 if predict_visible else 1 + masking.visible_BV.shape[1]


def run_last_block(
    block: nn.Module, tokens_BTD: Float[Tensor, "B T D"], skip: int
) -> Float[Tensor, "B M D"]:
    """Return the block's output for the tokens after the first `skip`.

    Nobody reads the output of the others, so only their keys and values are computed.
    Equal to the whole block up to rounding, gradients included.
    """
    assert isinstance(block, Block)
    normed_BTD = block.norm1(tokens_BTD)
    attention = block.attn
    width = tokens_BTD.shape[2]
    heads = attention.num_heads

    # timm stores queries, keys and values as one matrix, in this order
    query_weight, kv_weight = attention.qkv.weight.split([width, 2 * width])
    query_bias, kv_bias = attention.qkv.bias.split([width, 2 * width])
    query = F.linear(normed_BTD[:, skip:], query_weight, query_bias)
    query = query.unflatten(2, (heads, -1)).transpose(1, 2)
    keys_values = F.linear(normed_BTD, kv_weight, kv_bias)
    key, value = keys_values.unflatten(2, (2, heads, -1)).permute(2, 0, 3, 1, 4)

    mixed = F.scaled_dot_product_attention(query, key, value)
    mixed_BMD = mixed.transpose(1, 2).flatten(2)
    hidden_BMD = tokens_BTD[:, skip:] + attention.proj(mixed_BMD)
    return hidden_BMD + block.mlp(block.norm2(hidden_BMD))
