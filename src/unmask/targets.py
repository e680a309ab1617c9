"""What the decoder must predict (MAE Sec. 3 "Reconstruction target", Table 1d); float32 whatever the autocast."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

EPS = 1e-6


@dataclass(frozen=True)
class Pixel:
    """The pixels of a patch, as the model sees them (normalised by the data set's mean and std)."""

    def __call__(self, patches_BMP: Float[Tensor, "B M P"]) -> Float[Tensor, "B M P"]:
        return patches_BMP.float()

    def to_pixels(
        self, pred_BMP: Float[Tensor, "B M P"], visible_BVP: Float[Tensor, "B V P"]
    ) -> Float[Tensor, "B M P"]:
        return pred_BMP.float()


@dataclass(frozen=True)
class NormalisedPixel:
    """Pixels less their patch's mean, over its standard deviation (all p * p * C values together, unbiased)."""

    def __call__(self, patches_BMP: Float[Tensor, "B M P"]) -> Float[Tensor, "B M P"]:
        patches = patches_BMP.float()
        variance, mean = patches.var(dim=-1, keepdim=True), patches.mean(dim=-1, keepdim=True)
        return (patches - mean) / (variance + EPS).sqrt()

    def to_pixels(
        self, pred_BMP: Float[Tensor, "B M P"], visible_BVP: Float[Tensor, "B V P"]
    ) -> Float[Tensor, "B M P"]:
        """Undone with the average statistics of the *visible* patches: the hidden ones' own would leak the answer."""
        visible = visible_BVP.float()
        mean = visible.mean(dim=(1, 2), keepdim=True)
        variance = visible.var(dim=-1).mean(dim=1)[:, None, None]
        return pred_BMP.float() * (variance + EPS).sqrt() + mean
