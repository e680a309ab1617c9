"""What the decoder must predict (MAE Sec. 3 "Reconstruction target", Table 1d); float32 whatever the autocast."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from unmask.hog import hog, hog_dim
from unmask.patches import gather, patchify


def mean_squared_error(
    pred_BMP: Float[Tensor, "B M P"], target_BMP: Float[Tensor, "B M P"]
) -> Float[Tensor, ""]:
    """Mean over a patch's values, then over all patches of the batch, in float32."""
    return (pred_BMP.float() - target_BMP.float()).square().mean(dim=-1).mean()


def cross_entropy(
    logits_BMK: Float[Tensor, "B M K"], codes_BM: Int[Tensor, "B M"]
) -> Float[Tensor, ""]:
    """Of the right code among K, mean over all patches of the batch, in float32 (Table 1d, dVAE token)."""
    return F.cross_entropy(logits_BMK.float().flatten(0, 1), codes_BM.flatten())


EPS = 1e-6


@dataclass(frozen=True)
class Pixel:
    """The pixels of a patch, as the model sees them (normalised by the data set's mean and std)."""

    whole_images = False
    loss = staticmethod(mean_squared_error)

    def outputs(self, patch_size: int, channels: int) -> int:
        return patch_size**2 * channels

    def __call__(self, patches_BMP: Float[Tensor, "B M P"]) -> Float[Tensor, "B M P"]:
        return patches_BMP.float()

    def to_pixels(
        self, pred_BMP: Float[Tensor, "B M P"], visible_BVP: Float[Tensor, "B V P"]
    ) -> Float[Tensor, "B M P"]:
        return pred_BMP.float()


@dataclass(frozen=True)
class NormalisedPixel:
    """Pixels less their patch's mean, over its standard deviation (all p * p * C values together, unbiased)."""

    whole_images = False
    loss = staticmethod(mean_squared_error)

    def outputs(self, patch_size: int, channels: int) -> int:
        return patch_size**2 * channels

    def __call__(self, patches_BMP: Float[Tensor, "B M P"]) -> Float[Tensor, "B M P"]:
        patches = patches_BMP.float()
        variance, mean = (
            patches.var(dim=-1, keepdim=True),
            patches.mean(dim=-1, keepdim=True),
        )
        return (patches - mean) / (variance + EPS).sqrt()

    def to_pixels(
        self, pred_BMP: Float[Tensor, "B M P"], visible_BVP: Float[Tensor, "B V P"]
    ) -> Float[Tensor, "B M P"]:
        """Undone with the average statistics of the *visible* patches: the hidden ones' own would leak the answer."""
        visible = visible_BVP.float()
        mean = visible.mean(dim=(1, 2), keepdim=True)
        variance = visible.var(dim=-1).mean(dim=1)[:, None, None]
        return pred_BMP.float() * (variance + EPS).sqrt() + mean


class PatchPCA(nn.Module):
    """The largest principal coefficients of a patch (Table 1d: 96 of 768), centred and not whitened.

    The basis (`unmask.patch_pca`) is fitted on the training set; until it is given this predicts zeros. It travels in
    the checkpoint. What the paper does about centring and whitening is not published.
    """

    whole_images = False
    loss = staticmethod(mean_squared_error)
    mean_P: Float[Tensor, "P"]
    basis_PK: Float[Tensor, "P K"]

    def __init__(self, components: int, patch_size: int, channels: int) -> None:
        super().__init__()
        self.components, pixels = components, patch_size**2 * channels
        self.register_buffer("mean_P", torch.zeros(pixels))
        self.register_buffer("basis_PK", torch.zeros(pixels, components))

    def outputs(self, patch_size: int, channels: int) -> int:
        return self.components

    @torch.no_grad()
    def __call__(self, patches_BMP: Float[Tensor, "B M P"]) -> Float[Tensor, "B M K"]:
        with torch.autocast(patches_BMP.device.type, enabled=False):
            return (patches_BMP.float() - self.mean_P) @ self.basis_PK

    def to_pixels(
        self, pred_BMK: Float[Tensor, "B M K"], visible_BVP: Float[Tensor, "B V P"]
    ) -> Float[Tensor, "B M P"]:
        with torch.autocast(pred_BMK.device.type, enabled=False):
            return pred_BMK.float() @ self.basis_PK.T + self.mean_P


@dataclass(frozen=True)
class Hog:
    """Histograms of oriented gradients (MaskFeat, Wei et al. 2022; not in the MAE paper): see `unmask.hog`."""

    bins: int = 9
    whole_images = True
    to_pixels = None
    loss = staticmethod(mean_squared_error)

    def outputs(self, patch_size: int, channels: int) -> int:
        return hog_dim(patch_size, channels, self.bins)

    def __call__(
        self, images_BCHW: Float[Tensor, "B C H W"], patch_size: int
    ) -> Float[Tensor, "B L T"]:
        return hog(images_BCHW, patch_size, self.bins)


@runtime_checkable
class Tokenizer(Protocol):
    """Images, as the model sees them, to one of `codes` tokens a patch (`unmask.tokenizers` has two)."""

    codes: int

    def tokens(self, images_BCHW: Float[Tensor, "B C H W"]) -> Int[Tensor, "B L"]: ...

    def to(self, device: Any) -> Any: ...


class Tokens:
    """Discrete tokens of a frozen dVAE, predicted by cross-entropy over its codebook (Table 1d, after BEiT).

    No part of the model: checkpoints do not carry it.
    """

    whole_images = True
    to_pixels = None
    loss = staticmethod(cross_entropy)

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def outputs(self, patch_size: int, channels: int) -> int:
        return self.tokenizer.codes

    @torch.no_grad()
    def __call__(
        self, images_BCHW: Float[Tensor, "B C H W"], patch_size: int
    ) -> Int[Tensor, "B L"]:
        return self.tokenizer.to(images_BCHW.device).tokens(images_BCHW)


AnyTarget = Pixel | NormalisedPixel | PatchPCA | Hog | Tokens


def wanted_at(
    target: AnyTarget,
    images_BCHW: Float[Tensor, "B C H W"],
    index_BM: Int[Tensor, "B M"],
    patch_size: int,
) -> Tensor:
    """What is to be predicted at the chosen patches: (B, M, T) values, or (B, M) codes."""
    if not target.whole_images:
        return target(gather(patchify(images_BCHW, patch_size), index_BM))  # type: ignore[call-arg]
    found = target(images_BCHW, patch_size)  # type: ignore[call-arg]
    return found.gather(1, index_BM) if found.ndim == 2 else gather(found, index_BM)
