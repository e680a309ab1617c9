"""The reconstruction loss (MAE Sec. 3): on hidden patches only."""

from jaxtyping import Float
from torch import Tensor


def mean_squared_error(pred_BMP: Float[Tensor, "B M P"], target_BMP: Float[Tensor, "B M P"]) -> Float[Tensor, ""]:
    """Mean over a patch's pixels, then over all hidden patches of the batch, in float32."""
    return (pred_BMP.float() - target_BMP.float()).square().mean(dim=-1).mean()
