"""Snow, frost, fog and brightness."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.data.augment.corruptions.filters import (
    along_line,
    line_weights,
    smooth,
    zoom,
)
from unmask.data.augment.corruptions.random import Draws

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, OpenCV's grey of RGB
ICE = (0.80, 0.92, 1.0)  # the tint of frost on RGB images
NEEDLES = 14  # the longer side over the length of a needle of ice
# needles that start within a needle's length, side branches a pixel
SEEDS, BUDS = 0.1, 0.15


def grey(image_CHW: Float[Tensor, "C H W"]) -> Float[Tensor, "1 H W"]:
    """The luma of three channels, taken as RGB; the mean of any other number of channels."""
    if len(image_CHW) == 3:
        return (torch.tensor(LUMA)[:, None, None] * image_CHW).sum(0, keepdim=True)
    return image_CHW.mean(0, keepdim=True)


def snow(
    image_CHW: Float[Tensor, "C H W"],
    draws: Draws,
    mean: float,
    spread: float,
    size: float,
    threshold: float,
    radius: float,
    sigma: float,
    kept: float,
) -> Float[Tensor, "C H W"]:
    """Flakes are zoomed noise above a threshold, blurred as they fall; the scene is mixed with a whitened one."""
    height, width = image_CHW.shape[1:]
    flakes = zoom(mean + spread * draws.normal(0, 1, height, width), size)
    flakes = torch.where(flakes < threshold, 0.0, flakes).clamp(0, 1)
    flakes = along_line(flakes, radius, sigma, draws.between(1, -135, -45))
    whitened = torch.maximum(image_CHW, 1.5 * grey(image_CHW) + 0.5)
    return kept * image_CHW + (1 - kept) * whitened + flakes + flakes.flip(1, 2)


def fog(
    image_CHW: Float[Tensor, "C H W"], draws: Draws, thickness: float, decay: float
) -> Float[Tensor, "C H W"]:
    """Add a plasma fractal, then scale so that the brightest pixel could stay as bright as it was."""
    brightest = image_CHW.max()
    _, height, width = image_CHW.shape
    plasma_HW = plasma(draws, 0, (height, width), decay)
    return (image_CHW + thickness * plasma_HW) * brightest / (brightest + thickness)


def plasma(
    draws: Draws, stream: int, size: tuple[int, int], decay: float
) -> Float[Tensor, "H W"]:
    """Diamond-square on a torus: each halving adds noise decay**2 times smaller than the one before; 0 to 1."""
    levels = (max(size) - 1).bit_length()
    drawn = 2 * draws.uniform(stream, 4**levels).float() - 1
    field_NN, used = torch.zeros(1, 1), 0
    for level in range(levels):
        count = 3 * field_NN.numel()
        wobble = decay ** (-2 * level) * drawn[used : used + count].reshape(
            3, *field_NN.shape
        )
        field_NN, used = _refine(field_NN, wobble), used + count
    field_NN = field_NN - field_NN.min()
    return (field_NN / field_NN.max())[: size[0], : size[1]]


def _refine(
    field_NN: Float[Tensor, "N N"], wobble_3NN: Float[Tensor, "3 N N"]
) -> Float[Tensor, "2*N 2*N"]:
    """Twice the grid: the old points, the middles of their squares, then those of the edges of either direction."""
    below, right = field_NN.roll(-1, 0), field_NN.roll(-1, 1)
    middle = (field_NN + below + right + below.roll(-1, 1)) / 4 + wobble_3NN[0]
    on_row = (field_NN + right + middle + middle.roll(1, 0)) / 4 + wobble_3NN[1]
    on_col = (field_NN + below + middle + middle.roll(1, 1)) / 4 + wobble_3NN[2]
    rows = [
        torch.stack(pair, dim=-1).flatten(1)
        for pair in ((field_NN, on_row), (on_col, middle))
    ]
    return torch.stack(rows, dim=1).flatten(0, 1)


def frost(
    image_CHW: Float[Tensor, "C H W"], draws: Draws, scene: float, ice: float
) -> Float[Tensor, "C H W"]:
    """A weighted sum of the image and of ice.

    Deviation: the original cuts the ice out of five photographs; ours is made (`ice_texture`), so no file is needed.
    """
    channels, height, width = image_CHW.shape
    texture_HW = ice_texture(draws, (height, width))
    tint = torch.tensor(ICE if channels == 3 else (1.0,))[:, None, None]
    return scene * image_CHW + ice * tint * texture_HW


def ice_texture(draws: Draws, size: tuple[int, int]) -> Float[Tensor, "H W"]:
    """Needles with side branches that grow from seeds in six directions 60 degrees apart, dense where the cover is."""
    length = max(4.0, max(size) / NEEDLES)
    # cut off at the end: there needles grow from the repeated edge
    margin = 2 * math.ceil(length)
    canvas = (size[0] + 2 * margin, size[1] + 2 * margin)
    cover_HW, axis = 0.3 + 0.7 * plasma(draws, 0, canvas, 1.6), draws.between(1, 0, 60)
    crystals_HW = torch.zeros(canvas)
    for turn, drawn_HW in enumerate(draws.uniform(2, 6, *canvas).float()):
        seeds_HW = (drawn_HW < SEEDS / length * cover_HW**2).float()
        buds_HW = (drawn_HW > 1 - BUDS).float()
        crystals_HW = torch.maximum(
            crystals_HW, _branching(seeds_HW, buds_HW, length, axis + 60 * turn)
        )
    crystals_HW = smooth(crystals_HW[None], length / 20)[0]
    ice_HW = (0.25 * cover_HW + 1.2 * crystals_HW * cover_HW).clamp(0, 1)
    return ice_HW[margin:-margin, margin:-margin]


def _branching(
    seeds_HW: Float[Tensor, "H W"],
    buds_HW: Float[Tensor, "H W"],
    length: float,
    degrees: float,
) -> Float[Tensor, "H W"]:
    """A stem from each seed, and shorter branches to both sides where a stem meets a bud."""
    stem_1HW = _grown(seeds_HW[None], length, degrees)
    branches = [
        _grown(stem_1HW * buds_HW, length / 2, degrees + side) for side in (-60, 60)
    ]
    return torch.stack([stem_1HW, *branches]).amax(0)[0].clamp(0, 1)


def _grown(
    seeds_1HW: Float[Tensor, "1 H W"], length: float, degrees: float
) -> Float[Tensor, "1 H W"]:
    """A line from each seed, as bright as it and then fading."""
    return along_line(seeds_1HW, length, length, degrees) * sum(
        line_weights(length, length)
    )


def brightness(
    image_CHW: Float[Tensor, "C H W"], draws: Draws, added: float
) -> Float[Tensor, "C H W"]:
    """Raise the HSV value, hue and saturation kept: all channels grow by one factor.

    The value is the largest channel, whatever their number: one grey channel is simply raised. Black becomes grey.
    """
    value = image_CHW.amax(0, keepdim=True)
    raised = (value + added).clamp(0, 1)
    return torch.where(value > 0, image_CHW * (raised / value), raised)
