"""The MAE decoder: mask tokens join the encoded patches, and the head predicts the hidden ones (MAE Sec. 3)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unmask.encoder import LayerNorm, run_blocks, transformer_blocks
from unmask.masking import Masking
from unmask.positions import sincos_2d


class Decoder(nn.Module):
    """Depth x width transformer on all patches; out_dim values are predicted for each hidden patch."""

    def __init__(
        self, grid: tuple[int, int], in_width: int, out_dim: int,
        width: int, depth: int, heads: int, mlp_ratio: float = 4.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.embed = nn.Linear(in_width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(sincos_2d(width, grid)[None], requires_grad=False)
        self.blocks = transformer_blocks(width, depth, heads, mlp_ratio)
        self.norm = LayerNorm(width)
        self.head = nn.Linear(width, out_dim)

    def forward(self, encoded_BTD: Float[Tensor, "B T D"], masking: Masking) -> Float[Tensor, "B M P"]:
        """Predictions for the hidden patches, in the order of masking.masked_BM.

        Tokens stay in the order [class, visible, hidden]: attention does not mind, and nothing is shuffled back.
        """
        embedded = self.embed(encoded_BTD)
        mask_tokens = self.mask_token.expand(*masking.masked_BM.shape, -1)
        order_BL = torch.cat([masking.visible_BV, masking.masked_BM], dim=1)
        patches = torch.cat([embedded[:, 1:], mask_tokens], dim=1) + self.pos_embed[0, 1:][order_BL]
        tokens = torch.cat([embedded[:, :1] + self.pos_embed[:, :1], patches], dim=1)
        decoded = run_blocks(self.blocks, tokens)
        return self.head(self.norm(decoded[:, encoded_BTD.shape[1] :]))
