"""The reconstruction loss (MAE Sec. 3), over whichever patches it is given: the hidden ones, or all (footnote 1)."""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def mean_squared_error(pred_BMP: Float[Tensor, "B M P"], target_BMP: Float[Tensor, "B M P"]) -> Float[Tensor, ""]:
    """Mean over a patch's values, then over all patches of the batch, in float32."""
    return (pred_BMP.float() - target_BMP.float()).square().mean(dim=-1).mean()


def cross_entropy(logits_BMK: Float[Tensor, "B M K"], codes_BM: Int[Tensor, "B M"]) -> Float[Tensor, ""]:
    """Of the right code among K, mean over all patches of the batch, in float32 (Table 1d, dVAE token)."""
    return F.cross_entropy(logits_BMK.float().flatten(0, 1), codes_BM.flatten())
