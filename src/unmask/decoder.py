"""The MAE decoder: predicts the hidden patches from the encoded visible ones.

MAE Sec. 3, "MAE decoder". The encoder hands over the tokens [classes, visible], or
[classes, visible, hidden] where it carries mask tokens itself (Table 1c).
"""

from typing import Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unmask.blocks import TransformerBlock
from unmask.encoder import LayerNorm, run_blocks, transformer_blocks
from unmask.masking import Masking
from unmask.patches import sincos_2d


@runtime_checkable
class AnyDecoder(Protocol):
    """A decoder, as the classes below and yours are: a torch.nn.Module that has these.

    reads_blocks: whether it is called with the outputs of all of the encoder's blocks,
    a list that begins with the embedded tokens, in place of the encoder's output.
    """

    reads_blocks: bool

    def __call__(self, *values: Any, **more: Any) -> Any:
        """Return predictions (B, M, P) of masking.hidden_BM: `forward` of the module.

        Called with encoded tokens (B, T, D), a Masking, and whether visible patches are
        predicted, too: before the hidden ones, in the order of masking.visible_BV.
        """
        ...


class Decoder(nn.Module):
    """Transformer on all patches that predicts `out_dim` values for each hidden one.

    mask_tokens: whether it adds a learned token for each hidden patch; False where the
    encoder has carried mask tokens of its own.
    """

    reads_blocks = False

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
        classes = num_class_tokens(encoded_BTD, masking, self.mask_token is None)
        patches = [embedded[:, classes:]]
        if self.mask_token is not None:
            patches.append(self.mask_token.expand(*masking.hidden_BM.shape, -1))
        # Tokens stay in the order [classes, visible, hidden]: attention does not depend
        # on it, so only the positions are brought into this order, not the tokens into
        # the image's as in the official port.
        order_BL = torch.cat([masking.visible_BV, masking.hidden_BM], dim=1)
        patches_BLD = torch.cat(patches, dim=1) + self.pos_embed[0, 1:][order_BL]
        cls_token = embedded[:, :classes] + self.pos_embed[:, :1]
        tokens = torch.cat([cls_token, patches_BLD], dim=1)
        tokens = run_blocks(self.blocks[:-1], tokens)
        last = cast(TransformerBlock, self.blocks[-1])
        decoded_BMD = last.outputs_after(
            tokens, classes + num_unread_patches(masking, predict_visible)
        )
        return self.head(self.norm(decoded_BMD))


class LinearHead(nn.Module):
    """A decoder of depth 0: each token predicts its own patch.

    The encoder must carry the mask tokens, or there is no token for a hidden patch.
    """

    reads_blocks = False

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
        first = num_class_tokens(encoded_BTD, masking, has_hidden=True)
        first += num_unread_patches(masking, predict_visible)
        return self.head(encoded_BTD[:, first:])


def num_class_tokens(
    encoded_BTD: Float[Tensor, "B T D"], masking: Masking, has_hidden: bool
) -> int:
    """Return how many of the encoder's tokens stand for no patch.

    has_hidden: whether tokens of hidden patches are among them (Table 1c).
    """
    patches = masking.visible_BV.shape[1]
    if has_hidden:
        patches += masking.hidden_BM.shape[1]
    return encoded_BTD.shape[1] - patches


def num_unread_patches(masking: Masking, predict_visible: bool) -> int:
    """Return how many patches precede those that are predicted."""
    return 0 if predict_visible else masking.visible_BV.shape[1]
