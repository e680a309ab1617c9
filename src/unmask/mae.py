"""The masked autoencoder (MAE Fig. 1): encode what is visible, decode what is hidden."""

from jaxtyping import Float
from torch import Tensor, nn

from unmask.decoder import Decoder
from unmask.encoder import Encoder
from unmask.initialisation import initialise
from unmask.masking import Masking


class MAE(nn.Module):
    """An encoder and a decoder on the same grid of patches, with weights that are a function of the seed."""

    def __init__(self, encoder: Encoder, decoder: Decoder, seed: int = 0) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        initialise(self, seed)

    def forward(self, images_BCHW: Float[Tensor, "B C H W"], masking: Masking) -> Float[Tensor, "B M P"]:
        """Predicted patches, in the order of masking.masked_BM."""
        encoded_BTD = self.encoder(images_BCHW, masking.visible_BV)
        return self.decoder(encoded_BTD, masking)


def num_parameters(model: nn.Module, trainable_only: bool = False) -> int:
    """Fixed positions count as parameters, as in the published sizes, unless only trainable ones are asked for."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)
