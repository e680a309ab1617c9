"""CrossMAE's decoder (Fu et al. 2024, arXiv 2401.14391): masked patches read, alone.

Sec. 3.2: a mask token of each hidden patch attends to the encoder's tokens, and not to
other mask tokens, so that any part of the patches can be predicted (Sec. 3.3: partial
reconstruction; the task chooses the part). Sec. 3.4: inter-block attention.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unmask.blocks import CrossBlock
from unmask.encoder import LayerNorm
from unmask.masking import Masking
from unmask.patches import sincos_2d


class CrossDecoder(nn.Module):
    """Blocks of cross-attention and MLP that predict `out_dim` values for each patch.

    encoder_depth: each block reads its own learned sum of so many encoder blocks'
    outputs and of the embedded tokens, normalised by its own LayerNorm (inter-block
    attention, with `use_input` as in the official recipe). None: each block reads the
    encoder's output.
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
        encoder_depth: int | None = None,
    ) -> None:
        super().__init__()
        self.reads_blocks = encoder_depth is not None
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        positions_LD = sincos_2d(width, grid, class_tokens=0)
        self.pos_embed = nn.Parameter(positions_LD[None], requires_grad=False)
        # The paper draws these weights from a normal distribution; in the official code
        # the xavier initialisation of all linear layers follows, as it does here.
        self.mix = (
            None
            if encoder_depth is None
            else nn.Linear(encoder_depth + 1, depth, bias=False)
        )
        self.blocks = nn.ModuleList(
            CrossBlock(width, in_width, heads, mlp_ratio, LayerNorm, self.reads_blocks)
            for _ in range(depth)
        )
        self.norm = LayerNorm(width)
        self.head = nn.Linear(width, out_dim)

    def forward(
        self,
        encoded: Float[Tensor, "B T E"] | Sequence[Float[Tensor, "B T E"]],
        masking: Masking,
        predict_visible: bool = False,
    ) -> Float[Tensor, "B M P"]:
        """Predict the patches of masking.hidden_BM, which may be some of the hidden.

        predict_visible: predict the visible ones, too, before them.
        """
        index_BM = masking.hidden_BM
        if predict_visible:
            index_BM = torch.cat([masking.visible_BV, index_BM], dim=1)
        tokens_BMD = self.mask_token + self.pos_embed[0][index_BM]
        for block, source_BTE in zip(self.blocks, self._sources(encoded), strict=True):
            tokens_BMD = block(tokens_BMD, source_BTE)
        return self.head(self.norm(tokens_BMD))

    def _sources(
        self, encoded: Float[Tensor, "B T E"] | Sequence[Float[Tensor, "B T E"]]
    ) -> Sequence[Float[Tensor, "B T E"]]:
        """Return what each block reads: sum_k w_jk f_k for block j, or the output."""
        if self.mix is None:
            assert isinstance(encoded, Tensor)
            return [encoded] * len(self.blocks)
        stacked_KBTE = torch.stack([*encoded])
        # a sum of residual streams: autocast would round it before its LayerNorm
        with _no_autocast(stacked_KBTE.device.type):
            weight_JK = self.mix.weight
            mixed_JN = weight_JK @ stacked_KBTE.flatten(1).to(weight_JK.dtype)
        return mixed_JN.unflatten(1, stacked_KBTE.shape[1:]).unbind(0)


def _no_autocast(device: str) -> AbstractContextManager[Any]:
    """Compute in the types of the operands; models without values have no autocast."""
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)
