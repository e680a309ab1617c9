"""What the decoder must predict, and the losses (MAE Sec. 3 and Table 1d).

All are computed in float32, also under autocast.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from unmask.hog import hog, hog_dim
from unmask.patches import gather_tokens, patchify

# the official port's, under the square root of a patch's variance
EPS = 1e-6


def mean_squared_error(
    pred_BMP: Float[Tensor, "B M P"], target_BMP: Float[Tensor, "B M P"]
) -> Float[Tensor, ""]:
    """Average over a patch's values, then over all patches of the batch."""
    return (pred_BMP.float() - target_BMP.float()).square().mean(dim=-1).mean()


def mean_absolute_error(
    pred_BMP: Float[Tensor, "B M P"], target_BMP: Float[Tensor, "B M P"]
) -> Float[Tensor, ""]:
    """Average |prediction - target| over all values of all patches of the batch."""
    return (pred_BMP.float() - target_BMP.float()).abs().mean(dim=-1).mean()


def cross_entropy(
    logits_BMK: Float[Tensor, "B M K"], codes_BM: Int[Tensor, "B M"]
) -> Float[Tensor, ""]:
    """Average the cross-entropy of K codes over all patches of the batch.

    Table 1d, "dVAE token".
    """
    return F.cross_entropy(logits_BMK.float().flatten(0, 1), codes_BM.flatten())


@runtime_checkable
class AnyTarget(Protocol):
    """What the decoder must predict, as the classes below and yours have it.

    needs_whole_images: whether it is computed from images (B, C, H, W) and the patch
    size, or from patches (B, M, P). to_pixels: pixels from predictions (B, M, T) and
    visible patches (B, V, P), to look at; None where that cannot be. loss: of
    predictions and values. picture_note, which a class may lack: what readers of the
    pictures must know. A constructor that asks for patch_size, channels or grid gets
    those of the data.
    """

    @property
    def needs_whole_images(self) -> bool: ...

    @property
    def to_pixels(self) -> Any: ...

    @property
    def loss(self) -> Any: ...

    def num_outputs(self, patch_size: int, channels: int) -> int:
        """Return how many numbers the decoder predicts for a patch."""
        ...

    def __call__(self, *values: Any, **more: Any) -> Any:
        """Return the values at patches (B, M, T), or codes (B, M)."""
        ...


@dataclass(frozen=True)
class Pixel:
    """Predict the pixels of a patch, normalised by the data set's mean and std."""

    needs_whole_images = False
    loss = staticmethod(mean_squared_error)

    def num_outputs(self, patch_size: int, channels: int) -> int:
        return patch_size**2 * channels

    def __call__(self, patches_BMP: Float[Tensor, "B M P"]) -> Float[Tensor, "B M P"]:
        return patches_BMP.float()

    def to_pixels(
        self, pred_BMP: Float[Tensor, "B M P"], visible_BVP: Float[Tensor, "B V P"]
    ) -> Float[Tensor, "B M P"]:
        return pred_BMP.float()


@dataclass(frozen=True)
class AbsolutePixel:
    """Predict pixels as Pixel does, with the absolute error as the loss.

    SimMIM (Xie et al. 2022, arXiv 2111.09886), Eq. 1: the L1 distance over the masked
    pixels, divided by their number.
    """

    needs_whole_images = False
    loss = staticmethod(mean_absolute_error)
    num_outputs = Pixel.num_outputs
    __call__ = Pixel.__call__
    to_pixels = Pixel.to_pixels


@dataclass(frozen=True)
class NormalisedPixel:
    """Predict pixels less their patch's mean, over its standard deviation.

    Both are taken over all values of the patch together, the variance unbiased, as in
    the official port.
    """

    picture_note = (
        "Contrast and brightness of hidden patches are taken from the visible ones, not"
        " from the original."
    )
    needs_whole_images = False
    loss = staticmethod(mean_squared_error)

    def num_outputs(self, patch_size: int, channels: int) -> int:
        return patch_size**2 * channels

    def __call__(self, patches_BMP: Float[Tensor, "B M P"]) -> Float[Tensor, "B M P"]:
        patches = patches_BMP.float()
        mean = patches.mean(dim=-1, keepdim=True)
        variance = patches.var(dim=-1, keepdim=True)
        return (patches - mean) / (variance + EPS).sqrt()

    def to_pixels(
        self, pred_BMP: Float[Tensor, "B M P"], visible_BVP: Float[Tensor, "B V P"]
    ) -> Float[Tensor, "B M P"]:
        """Undo the normalisation by the average statistics of the *visible* patches."""
        # the hidden patches' own statistics would leak the answer into the picture
        visible = visible_BVP.float()
        mean = visible.mean(dim=(1, 2), keepdim=True)
        variance = visible.var(dim=-1).mean(dim=1)[:, None, None]
        return pred_BMP.float() * (variance + EPS).sqrt() + mean

    def to_pixels_by_answer(
        self, pred_BMP: Float[Tensor, "B M P"], hidden_BMP: Float[Tensor, "B M P"]
    ) -> Float[Tensor, "B M P"]:
        """Undo the normalisation by the statistics of the hidden patches themselves.

        They are part of the answer: brightness and contrast of what was to be guessed.
        """
        hidden = hidden_BMP.float()
        mean = hidden.mean(dim=-1, keepdim=True)
        variance = hidden.var(dim=-1, keepdim=True)
        return pred_BMP.float() * (variance + EPS).sqrt() + mean


class PatchPCA(nn.Module):
    """Predict the largest principal coefficients of a patch (Table 1d: 96 of 768).

    Centred and not whitened; what the paper does is not published. The basis is fitted
    on the training set (`unmask.patch_pca`) and travels in the checkpoint; until it is
    set, all coefficients are zero.
    """

    needs_whole_images = False
    loss = staticmethod(mean_squared_error)
    mean_P: Float[Tensor, "P"]
    basis_PK: Float[Tensor, "P K"]

    def __init__(self, components: int, patch_size: int, channels: int) -> None:
        super().__init__()
        self.components = components
        patch_dim = patch_size**2 * channels
        self.register_buffer("mean_P", torch.zeros(patch_dim))
        self.register_buffer("basis_PK", torch.zeros(patch_dim, components))

    def num_outputs(self, patch_size: int, channels: int) -> int:
        return self.components

    @torch.no_grad()
    def __call__(self, patches_BMP: Float[Tensor, "B M P"]) -> Float[Tensor, "B M K"]:
        # autocast would compute the matrix product in half precision
        with torch.autocast(patches_BMP.device.type, enabled=False):
            return (patches_BMP.float() - self.mean_P) @ self.basis_PK

    def to_pixels(
        self, pred_BMK: Float[Tensor, "B M K"], visible_BVP: Float[Tensor, "B V P"]
    ) -> Float[Tensor, "B M P"]:
        with torch.autocast(pred_BMK.device.type, enabled=False):
            return pred_BMK.float() @ self.basis_PK.T + self.mean_P


@dataclass(frozen=True)
class Hog:
    """Predict histograms of oriented gradients: see `unmask.hog`.

    From MaskFeat (Wei et al. 2022); not in the MAE paper.
    """

    bins: int = 9
    needs_whole_images = True
    to_pixels = None
    loss = staticmethod(mean_squared_error)

    def num_outputs(self, patch_size: int, channels: int) -> int:
        return hog_dim(patch_size, channels, self.bins)

    def __call__(
        self, images_BCHW: Float[Tensor, "B C H W"], patch_size: int
    ) -> Float[Tensor, "B L T"]:
        return hog(images_BCHW, patch_size, self.bins)


@runtime_checkable
class Tokenizer(Protocol):
    """Turns normalised images into one of `codes` tokens for each patch.

    `unmask.tokenizers` has two of them.
    """

    codes: int

    def tokens(self, images_BCHW: Float[Tensor, "B C H W"]) -> Int[Tensor, "B L"]: ...

    def to(self, device: Any) -> Any: ...


class Tokens:
    """Predict the tokens of a frozen dVAE, by cross-entropy over its codebook.

    Table 1d, after BEiT. The tokenizer is no part of the model: checkpoints do not
    carry it.
    """

    needs_whole_images = True
    to_pixels = None
    loss = staticmethod(cross_entropy)

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def num_outputs(self, patch_size: int, channels: int) -> int:
        return self.tokenizer.codes

    @torch.no_grad()
    def __call__(
        self, images_BCHW: Float[Tensor, "B C H W"], patch_size: int
    ) -> Int[Tensor, "B L"]:
        return self.tokenizer.to(images_BCHW.device).tokens(images_BCHW)


def targets_at(
    target: AnyTarget,
    images_BCHW: Float[Tensor, "B C H W"],
    index_BM: Int[Tensor, "B M"],
    patch_size: int,
) -> Tensor:
    """Return the target at the chosen patches: (B, M, T) values or (B, M) codes."""
    if not target.needs_whole_images:
        patches_BMP = gather_tokens(patchify(images_BCHW, patch_size), index_BM)
        return target(patches_BMP)
    values = target(images_BCHW, patch_size)
    if values.ndim == 2:
        return values.gather(1, index_BM)
    return gather_tokens(values, index_BM)
