"""The masked autoencoder (MAE Fig. 1): encode the visible, predict the hidden."""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unmask.decoder import AnyDecoder
from unmask.encoder import AnyEncoder, Encoder
from unmask.initialisation import initialise
from unmask.masking import Masking


class MAE(nn.Module):
    """An encoder and a decoder on the same grid of patches.

    The initial weights are a function of the seed. mask_tokens: the encoder too gets a
    learned token for each hidden patch (Table 1c, "encoder w/ [M]"), with the patch's
    position; the decoder then adds none.
    """

    encoder: AnyEncoder
    decoder: AnyDecoder

    def __init__(
        self,
        encoder: AnyEncoder,
        decoder: AnyDecoder,
        seed: int = 0,
        mask_tokens: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.mask_token = (
            nn.Parameter(torch.zeros(1, 1, encoder.width)) if mask_tokens else None
        )
        initialise(self, seed)
        # nobody reads what it gives, and ranks wait for gradients of what is trained
        if decoder.reads_blocks:
            encoder.norm.requires_grad_(False)

    def forward(
        self,
        images_BCHW: Float[Tensor, "B C H W"],
        masking: Masking,
        predict_visible: bool = False,
    ) -> Float[Tensor, "B M P"]:
        """Predict the hidden patches, in the order of masking.hidden_BM.

        predict_visible: predict all patches, the visible ones first.
        """
        if self.decoder.reads_blocks:
            encoder = cast(Encoder, self.encoder)
            blocks = encoder.block_outputs(images_BCHW, masking.visible_BV)
            return self.decoder(blocks, masking, predict_visible)
        encoded_BTD = self.encoder(
            images_BCHW, masking.visible_BV, self._encoder_mask_tokens(masking)
        )
        return self.decoder(encoded_BTD, masking, predict_visible)

    def _encoder_mask_tokens(self, masking: Masking) -> Float[Tensor, "B M D"] | None:
        if self.mask_token is None:
            return None
        # whether the paper adds positions to these tokens is not published
        first = self.encoder.class_tokens
        positions = self.encoder.pos_embed[0, first:][masking.hidden_BM]
        return self.mask_token + positions


def num_parameters(model: nn.Module, trainable_only: bool = False) -> int:
    """Count parameters; fixed positions are included, as in the published sizes."""
    return sum(
        parameter.numel()
        for parameter in model.parameters()
        if parameter.requires_grad or not trainable_only
    )
