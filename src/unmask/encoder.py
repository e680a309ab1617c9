"""The MAE encoder (MAE Sec. 3): a ViT that embeds only the visible patches."""

from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unmask import kernels
from unmask.blocks import TransformerBlock
from unmask.patches import gather_tokens, patchify, sincos_2d

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


def transformer_blocks(
    width: int, depth: int, heads: int, mlp_ratio: float
) -> nn.ModuleList:
    """Build timm's pre-norm ViT blocks with biases, as in the official port."""
    blocks = (
        TransformerBlock(width, heads, mlp_ratio, qkv_bias=True, norm_layer=LayerNorm)
        for _ in range(depth)
    )
    return nn.ModuleList(blocks)


def run_blocks(
    blocks: nn.ModuleList, tokens_BTD: Float[Tensor, "B T D"]
) -> Float[Tensor, "B T D"]:
    """Apply all blocks in order, with the attention that is faster for the tokens."""
    fused = tokens_BTD.device.type != "cpu" or not kernels.attends_by_products(
        tokens_BTD.shape[1], compute_dtype(tokens_BTD)
    )
    for block in blocks:
        # of timm's own operations
        block.attn.fused_attn = fused  # type: ignore[union-attr]
        tokens_BTD = block(tokens_BTD)
    return tokens_BTD


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the type of matrix products on a CPU: autocast's where that is on."""
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    return x.dtype


@runtime_checkable
class AnyEncoder(Protocol):
    """An encoder, as the class below and yours are: a torch.nn.Module that has these.

    grid: (rows, columns) of patches. class_tokens: how many tokens come before those of
    patches. blocks: a ModuleList; layer decay, drop path and partial fine-tuning go by
    it. norm: the last normalisation, which forward applies. pos_embed: a parameter
    (1, class_tokens + patches, width); stages on larger images resample it.
    """

    grid: tuple[int, int]
    patch_size: int
    channels: int
    width: int
    class_tokens: int

    @property
    def blocks(self) -> Any: ...

    @property
    def norm(self) -> Any: ...

    @property
    def pos_embed(self) -> Any: ...

    def __call__(self, *values: Any, **more: Any) -> Any:
        """Return unnormalised_tokens, normalised: `forward` of the module."""
        ...

    def unnormalised_tokens(self, *values: Any, **more: Any) -> Any:
        """Return tokens (B, T, D): of classes, of visible patches, and the mask tokens.

        Called with images (B, C, H, W), indices of visible patches (B, V) or None for
        all, and mask tokens (B, M, D) or None. Where features of an earlier block are
        asked for: with depth=, the number of blocks to pass.
        """
        ...


class Encoder(nn.Module):
    """ViT with class tokens and fixed 2-D sine-cosine positions.

    grid: (rows, columns) of patches. class_tokens: 1 in the paper; Pixio (Yang et al.
    2025, arXiv 2512.15715) learns 8, whose mean is the image's feature.
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
        class_tokens: int = 1,
    ) -> None:
        super().__init__()
        self.class_tokens = class_tokens
        self.grid = grid
        self.patch_size = patch_size
        self.channels = channels
        self.width = width
        # the official port's strided convolution, as a matrix on flattened patches
        self.patch_embed = nn.Linear(patch_size**2 * channels, width)
        self.cls_token = nn.Parameter(torch.zeros(1, class_tokens, width))
        # a parameter, as fine-tuning learns it; pretraining does not
        positions_TD = sincos_2d(width, grid, class_tokens)
        self.pos_embed = nn.Parameter(positions_TD[None], requires_grad=False)
        self.blocks = transformer_blocks(width, depth, heads, mlp_ratio)
        self.norm = LayerNorm(width)

    def forward(
        self,
        images_BCHW: Float[Tensor, "B C H W"],
        visible_BV: Int[Tensor, "B V"] | None = None,
        hidden_BMD: Float[Tensor, "B M D"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Return normalised tokens [classes, patches] of the visible patches.

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
        depth: int | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Return the last block's tokens, before the final LayerNorm.

        depth: of that many blocks instead; 0: what the first block receives.
        """
        patches = patchify(images_BCHW, self.patch_size)
        positions = self.pos_embed[0, self.class_tokens :]
        # select first, then embed: hidden patches cost nothing
        if visible_BV is not None:
            patches = gather_tokens(patches, visible_BV)
            positions = positions[visible_BV]
        tokens = self.patch_embed(patches) + positions
        cls_token = self.cls_token + self.pos_embed[:, : self.class_tokens]
        cls_token = cls_token.expand(len(tokens), -1, -1)
        mask_tokens = [] if hidden_BMD is None else [hidden_BMD]
        tokens = torch.cat([cls_token, tokens, *mask_tokens], dim=1)
        blocks = self.blocks if depth is None else self.blocks[:depth]
        return run_blocks(blocks, tokens)

    def block_outputs(
        self,
        images_BCHW: Float[Tensor, "B C H W"],
        visible_BV: Int[Tensor, "B V"] | None = None,
    ) -> list[Float[Tensor, "B T D"]]:
        """Return the embedded tokens, then each block's output, all unnormalised."""
        outputs = [self.unnormalised_tokens(images_BCHW, visible_BV, depth=0)]
        for i in range(len(self.blocks)):
            outputs.append(run_blocks(self.blocks[i : i + 1], outputs[-1]))
        return outputs
