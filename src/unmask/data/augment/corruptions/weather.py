"""The weather: snow, frost, fog and brightness."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.data.augment.corruptions.filters import (
    blur_along_line,
    gaussian_blur,
    line_weights,
    zoom,
)
from unmask.data.augment.corruptions.random import Draws

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, OpenCV's grey of RGB
ICE = (0.80, 0.92, 1.0)  # the tint of frost on RGB images
NEEDLES = 14  # the longer side over the length of a needle of ice
SEEDS = 0.1  # needles that start within a needle's length
BUDS = 0.15  # side branches per pixel


def to_grey(image_CHW: Float[Tensor, "C H W"]) -> Float[Tensor, "1 H W"]:
    """Return the luma of three channels (RGB), or the mean of any other number."""
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
    image_weight: float,
) -> Float[Tensor, "C H W"]:
    """Whiten the image and add flakes.

    Flakes are zoomed noise above a threshold, blurred along the direction in which
    they fall.
    """
    height, width = image_CHW.shape[1:]
    noise = mean + spread * draws.normal(0, 1, height, width)
    flakes = zoom(noise, size)
    flakes = torch.where(flakes < threshold, 0.0, flakes).clamp(0, 1)
    degrees = draws.uniform_between(1, -135, -45)
    flakes = blur_along_line(flakes, radius, sigma, degrees)
    whitened = torch.maximum(image_CHW, 1.5 * to_grey(image_CHW) + 0.5)
    scene = image_weight * image_CHW + (1 - image_weight) * whitened
    # a second layer: the same flakes, turned by 180 degrees
    return scene + flakes + flakes.flip(1, 2)


def fog(
    image_CHW: Float[Tensor, "C H W"], draws: Draws, thickness: float, decay: float
) -> Float[Tensor, "C H W"]:
    """Add a plasma fractal, then rescale.

    After that, the brightest pixel cannot be brighter than it was.
    """
    brightest = image_CHW.max()
    _, height, width = image_CHW.shape
    plasma_HW = plasma_fractal(draws, 0, (height, width), decay)
    return (image_CHW + thickness * plasma_HW) * brightest / (brightest + thickness)


def plasma_fractal(
    draws: Draws, stream: int, size: tuple[int, int], decay: float
) -> Float[Tensor, "H W"]:
    """Draw a fractal in [0, 1] by the diamond-square algorithm on a torus.

    Each time the grid is halved, the added noise is decay**2 times smaller.
    """
    # the smallest power of two that covers the longer side
    levels = (max(size) - 1).bit_length()
    drawn = 2 * draws.uniform(stream, 4**levels).float() - 1
    field_NN = torch.zeros(1, 1)
    used = 0
    for level in range(levels):
        count = 3 * field_NN.numel()
        noise = drawn[used : used + count].reshape(3, *field_NN.shape)
        field_NN = _refine(field_NN, decay ** (-2 * level) * noise)
        used += count
    field_NN = field_NN - field_NN.min()
    return (field_NN / field_NN.max())[: size[0], : size[1]]


def _refine(
    field_NN: Float[Tensor, "N N"], noise_3NN: Float[Tensor, "3 N N"]
) -> Float[Tensor, "2*N 2*N"]:
    """Double the grid: add the middles of its squares, then those of the edges.

    Each new point is the mean of its four neighbours plus noise.
    """
    below = field_NN.roll(-1, 0)
    right = field_NN.roll(-1, 1)
    diagonal = below.roll(-1, 1)
    middle = (field_NN + below + right + diagonal) / 4 + noise_3NN[0]
    on_row = (field_NN + right + middle + middle.roll(1, 0)) / 4 + noise_3NN[1]
    on_col = (field_NN + below + middle + middle.roll(1, 1)) / 4 + noise_3NN[2]
    even_rows = torch.stack([field_NN, on_row], dim=-1).flatten(1)
    odd_rows = torch.stack([on_col, middle], dim=-1).flatten(1)
    return torch.stack([even_rows, odd_rows], dim=1).flatten(0, 1)


def frost(
    image_CHW: Float[Tensor, "C H W"], draws: Draws, scene: float, ice: float
) -> Float[Tensor, "C H W"]:
    """Add up the image and ice, each with its weight.

    This differs from the original, which cuts the ice out of five photographs: ours
    is drawn (`ice_texture`), so that no file is needed.
    """
    channels, height, width = image_CHW.shape
    texture_HW = ice_texture(draws, (height, width))
    tint = torch.tensor(ICE if channels == 3 else (1.0,))[:, None, None]
    return scene * image_CHW + ice * tint * texture_HW


def ice_texture(draws: Draws, size: tuple[int, int]) -> Float[Tensor, "H W"]:
    """Draw needles of ice with side branches, densest where the ice cover is.

    They grow from seeds in six directions, 60 degrees apart.
    """
    length = max(4.0, max(size) / NEEDLES)
    # cut off at the end: within the margin, needles grow from the repeated edge
    margin = 2 * math.ceil(length)
    canvas = (size[0] + 2 * margin, size[1] + 2 * margin)
    cover_HW = 0.3 + 0.7 * plasma_fractal(draws, 0, canvas, 1.6)
    axis = draws.uniform_between(1, 0, 60)
    crystals_HW = torch.zeros(canvas)
    for turn, drawn_HW in enumerate(draws.uniform(2, 6, *canvas).float()):
        # the two ends of one uniform number: no pixel is both a seed and a bud
        seeds_HW = (drawn_HW < SEEDS / length * cover_HW**2).float()
        buds_HW = (drawn_HW > 1 - BUDS).float()
        grown_HW = _grow_branches(seeds_HW, buds_HW, length, axis + 60 * turn)
        crystals_HW = torch.maximum(crystals_HW, grown_HW)
    crystals_HW = gaussian_blur(crystals_HW[None], length / 20)[0]
    ice_HW = (0.25 * cover_HW + 1.2 * crystals_HW * cover_HW).clamp(0, 1)
    return ice_HW[margin:-margin, margin:-margin]


def _grow_branches(
    seeds_HW: Float[Tensor, "H W"],
    buds_HW: Float[Tensor, "H W"],
    length: float,
    degrees: float,
) -> Float[Tensor, "H W"]:
    """Grow a stem from each seed, and shorter branches where a stem meets a bud."""
    stem_1HW = _grow_lines(seeds_HW[None], length, degrees)
    branches = [
        _grow_lines(stem_1HW * buds_HW, length / 2, degrees + side)
        for side in (-60, 60)
    ]
    return torch.stack([stem_1HW, *branches]).amax(0)[0].clamp(0, 1)


def _grow_lines(
    seeds_1HW: Float[Tensor, "1 H W"], length: float, degrees: float
) -> Float[Tensor, "1 H W"]:
    """Grow a line from each seed: first as bright as the seed, then fading."""
    lines_1HW = blur_along_line(seeds_1HW, length, length, degrees)
    # undo the blur's division by the sum of its weights
    return lines_1HW * sum(line_weights(length, length))


def brightness(
    image_CHW: Float[Tensor, "C H W"], draws: Draws, added: float
) -> Float[Tensor, "C H W"]:
    """Raise the HSV value, and keep hue and saturation.

    All channels grow by one factor. The value is the largest channel, however many
    there are: a single grey channel is simply raised. Black becomes grey.
    """
    value = image_CHW.amax(0, keepdim=True)
    raised = (value + added).clamp(0, 1)
    return torch.where(value > 0, image_CHW * (raised / value), raised)
