"""The MAE encoder: a ViT on timm's blocks that embeds and sees only the patches it is given (MAE Sec. 3)."""

from functools import partial

import torch
from jaxtyping import Float, Int
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from unmask.patches import gather, patchify, sincos_2d

LayerNorm = partial(nn.LayerNorm, eps=1e-6)
SHORT = 64  # tokens


def transformer_blocks(
    width: int, depth: int, heads: int, mlp_ratio: float
) -> nn.ModuleList:
    """timm's pre-norm ViT blocks with biases, as in the official port."""
    blocks = (
        Block(width, heads, mlp_ratio, qkv_bias=True, norm_layer=LayerNorm)
        for _ in range(depth)
    )
    return nn.ModuleList(blocks)


def run_blocks(
    blocks: nn.ModuleList, tokens_BTD: Float[Tensor, "B T D"]
) -> Float[Tensor, "B T D"]:
    """All blocks in order; on a CPU plain matrix products beat the fused kernel for short sequences."""
    fused = tokens_BTD.device.type != "cpu" or tokens_BTD.shape[1] > SHORT
    for block in blocks:
        block.attn.fused_attn = fused  # type: ignore[union-attr]
        tokens_BTD = block(tokens_BTD)
    return tokens_BTD


class Encoder(nn.Module):
    """ViT with a class token and 2-D sine-cosine positions; `grid` is (rows, columns) of patches."""

    def __init__(
        self,
        grid: tuple[int, int],
        patch_size: int,
        channels: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        self.grid, self.patch_size, self.channels, self.width = (
            grid,
            patch_size,
            channels,
            width,
        )
        self.patch_embed = nn.Linear(patch_size**2 * channels, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(sincos_2d(width, grid)[None], requires_grad=False)
        self.blocks = transformer_blocks(width, depth, heads, mlp_ratio)
        self.norm = LayerNorm(width)

    def forward(
        self,
        images_BCHW: Float[Tensor, "B C H W"],
        visible_BV: Int[Tensor, "B V"] | None = None,
        hidden_BMD: Float[Tensor, "B M D"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Normalised tokens [class, patches] of the visible patches, or of all of them.

        hidden: tokens that stand for the hidden patches, positions included; they come last (Table 1c, with [M]).
        """
        return self.norm(self.unnormalised(images_BCHW, visible_BV, hidden_BMD))

    def unnormalised(
        self,
        images_BCHW: Float[Tensor, "B C H W"],
        visible_BV: Int[Tensor, "B V"] | None = None,
        hidden_BMD: Float[Tensor, "B M D"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """The last block's tokens, before the final LayerNorm."""
        patches = patchify(images_BCHW, self.patch_size)
        positions = self.pos_embed[0, 1:]
        # pixels first, then the embedding: hidden patches cost nothing
        if visible_BV is not None:
            patches = gather(patches, visible_BV)
            positions = positions[visible_BV]
        tokens = self.patch_embed(patches) + positions
        cls_token = (self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1)
        others = [] if hidden_BMD is None else [hidden_BMD]
        return run_blocks(self.blocks, torch.cat([cls_token, tokens, *others], dim=1))
