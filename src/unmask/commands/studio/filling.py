"""One picture and one autoencoder: what is hidden, and how it is filled in."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unmask.commands.reconstruct.autoencoder import LoadedAutoencoder
from unmask.masking import Masking
from unmask.reconstructions import GREY, Reconstruction, reconstruct
from unmask.targets import NormalisedPixel
from unmask.training import build


@dataclass(frozen=True)
class Filled:
    """Hold a picture in [0, 1] with its hidden patches filled in.

    hidden: True on the pixels of hidden patches.
    """

    result: Reconstruction
    hidden_HW: Bool[Tensor, "H W"]
    num_hidden: int
    num_patches: int

    @property
    def prediction(self) -> Float[Tensor, "1 C H W"]:
        """Return the prediction alone: visible patches, which have none, are grey."""
        pasted = self.result.pasted_BCHW
        return torch.where(self.hidden_HW, pasted, torch.full_like(pasted, GREY))

    @property
    def error(self) -> Float[Tensor, "H W"]:
        """Return the absolute error, averaged over channels; 0 where it is visible."""
        difference = self.result.pasted_BCHW - self.result.original_BCHW
        return difference.abs().mean(dim=1)[0] * self.hidden_HW

    @property
    def root_mean_square(self) -> float:
        """Return the error over the values of hidden patches, of a range of 1."""
        difference = self.result.pasted_BCHW - self.result.original_BCHW
        hidden = difference[..., self.hidden_HW]
        return float(hidden.square().mean().sqrt())

    def revealed(self, shown_L: Bool[Tensor, "L"], grid: tuple[int, int]) -> Tensor:
        """Return the picture (1, C, H, W) with some hidden patches filled in.

        shown: of all patches; the hidden ones that are not among them are grey.
        """
        shape = self.result.pasted_BCHW.shape[2:]
        shown_HW = _on_pixels(shown_L, grid, shape) | ~self.hidden_HW
        return torch.where(shown_HW, self.result.pasted_BCHW, self.result.masked_BCHW)


def fill_in(
    autoencoder: LoadedAutoencoder,
    image_BCHW: Float[Tensor, "1 C H W"],
    masking: Masking,
    by_answer: bool = False,
) -> Filled:
    """Hide patches of a normalised picture and fill them in.

    by_answer: undo a normalisation of patches by the hidden patches' own statistics.
    """
    image_format = build.build_format(autoencoder.config)
    result = reconstruct(
        autoencoder.model,
        autoencoder.target,
        image_BCHW,
        masking,
        image_format.mean,
        image_format.std,
        by_answer,
    )
    encoder = autoencoder.model.encoder
    hidden_L = masking.hidden_BL[0]
    hidden_HW = _on_pixels(hidden_L, encoder.grid, image_BCHW.shape[2:])
    return Filled(result, hidden_HW, int(hidden_L.sum()), len(hidden_L))


def normalises_patches(autoencoder: LoadedAutoencoder) -> bool:
    """Return whether brightness and contrast of patches are no part of the target."""
    return isinstance(autoencoder.target, NormalisedPixel)


def _on_pixels(
    patches_L: Bool[Tensor, "L"], grid: tuple[int, int], shape: tuple[int, ...]
) -> Bool[Tensor, "H W"]:
    """Spread a value of each patch over its pixels."""
    side = shape[0] // grid[0]
    return patches_L.view(grid).repeat_interleave(side, 0).repeat_interleave(side, 1)
