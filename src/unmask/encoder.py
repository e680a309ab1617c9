"""The MAE encoder (MAE Sec. 3): a ViT that embeds only the visible patches."""

from functools import partial

import torch
from jaxtyping import Float, Int
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from unmask.patches import gather_tokens, patchify, sincos_2d

LayerNorm = partial(nn.LayerNorm, eps=1e-6)
# on a CPU the fused attention kernel is slower than plain products up to this length
MAX_UNFUSED_TOKENS = 64


def transformer_blocks(
    width: int, depth: int, heads: int, mlp_ratio: float
) -> nn.ModuleList:
    """Build timm's pre-norm ViT blocks with biases, as in the official port."""
    blocks = (
        Block(width, heads, mlp_ratio, qkv_bias=True, norm_layer=LayerNorm)
        for _ in range(depth)
    )
    return nn.ModuleList(blocks)


def run_blocks(
    blocks: nn.ModuleList, tokens_BTD: Float[Tensor, "B T D"]
) -> Float[Tensor, "B T D"]:
    """Apply all blocks in order, with the attention that is faster for the tokens."""
    num_tokens = tokens_BTD.shape[1]
    fused = tokens_BTD.device.type != "cpu" or num_tokens > MAX_UNFUSED_TOKENS
    for block in blocks:
        block.attn.fused_attn = fused  # type: ignore[union-attr]
        tokens_BTD = block(tokens_BTD)
    return tokens_BTD


class Encoder(nn.Module):
    """ViT with a class token and fixed 2-D sine-cosine positions.

    grid: (rows, columns) of patches.
    """

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
        self.grid = grid
        self.patch_size = patch_size
        self.channels = channels
        self.width = width
        # the official port's strided convolution, as a matrix on flattened patches
        self.patch_embed = nn.Linear(patch_size**2 * channels, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        # a parameter, as fine-tuning learns it; pretraining does not
        self.pos_embed = nn.Parameter(sincos_2d(width, grid)[None], requires_grad=False)
        self.blocks = transformer_blocks(width, depth, heads, mlp_ratio)
        self.norm = LayerNorm(width)

    def forward(
        self,
        images_BCHW: Float[Tensor, "B C H W"],
        visible_BV: Int[Tensor, "B V"] | None = None,
        hidden_BMD: Float[Tensor, "B M D"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Return normalised tokens [class, patches] of the visible patches.

        visible_BV: None stands for all patches. hidden_BMD: tokens that stand for the
        hidden patches, positions included; they are appended to the others (Table 1c,
        "encoder w/ [M]").
        """
        return self.norm(self.unnormalised_tokens(images_BCHW, visible_BV, hidden_BMD))

    def unnormalised_tokens(
        self,
        images_BCHW: Float[Tensor, "B C H W"],
        visible_BV: Int[Tensor, "B V"] | None = None,
        hidden_BMD: Float[Tensor, "B M D"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Return the last block's tokens, before the final LayerNorm."""
        patches = patchify(images_BCHW, self.patch_size)
        positions = self.pos_embed[0, 1:]
        # select first, then embed: hidden patches cost nothing
        if visible_BV is not None:
            patches = gather_tokens(patches, visible_BV)
            positions = positions[visible_BV]
        tokens = self.patch_embed(patches) + positions
        cls_token = (self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1)
        mask_tokens = [] if hidden_BMD is None else [hidden_BMD]
        tokens = torch.cat([cls_token, tokens, *mask_tokens], dim=1)
        return run_blocks(self.blocks, tokens)
