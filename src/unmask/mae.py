"""The masked autoencoder (MAE Fig. 1): encode what is visible, decode what is hidden."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unmask.decoder import Decoder, LinearHead
from unmask.encoder import Encoder
from unmask.initialisation import initialise
from unmask.masking import Masking


class MAE(nn.Module):
    """An encoder and a decoder on the same grid of patches, with weights that are a function of the seed.

    mask_tokens: the encoder too sees a learned token in each hidden patch's place (Table 1c, "encoder w/ [M]"), with
    the patch's position; the decoder then adds none. Whether the paper adds positions there is not published.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder | LinearHead,
        seed: int = 0,
        mask_tokens: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.mask_token = (
            nn.Parameter(torch.zeros(1, 1, encoder.width)) if mask_tokens else None
        )
        initialise(self, seed)

    def forward(
        self,
        images_BCHW: Float[Tensor, "B C H W"],
        masking: Masking,
        everywhere: bool = False,
    ) -> Float[Tensor, "B M P"]:
        """Predicted patches, in the order of masking.masked_BM; everywhere: of all patches, the visible ones first."""
        encoded_BTD = self.encoder(
            images_BCHW, masking.visible_BV, self._stand_ins(masking)
        )
        return self.decoder(encoded_BTD, masking, everywhere)

    def _stand_ins(self, masking: Masking) -> Float[Tensor, "B M D"] | None:
        if self.mask_token is None:
            return None
        return self.mask_token + self.encoder.pos_embed[0, 1:][masking.masked_BM]


def num_parameters(model: nn.Module, trainable_only: bool = False) -> int:
    """Fixed positions count as parameters, as in the published sizes, unless only trainable ones are asked for."""
    return sum(
        p.numel() for p in model.parameters() if p.requires_grad or not trainable_only
    )
