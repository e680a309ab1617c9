"""What the page shows, as 8-bit RGB: tiles, heat maps, features as colours."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from torch import Tensor

from unmask.reconstructions import to_tiles

# no error, or no attention, is black
HEAT = colormaps["inferno"]
# pixels of a tile's longer side, at least
MIN_SIDE = 224
# the error that is brightest, as a share of the range from black to white
BRIGHTEST_ERROR = 0.5
# how much of the picture is seen below a heat map
SEEN_BELOW = 0.35
Tile = UInt8[np.ndarray, "X Y 3"]


def to_tile(image_BCHW: Float[Tensor, "1 C H W"]) -> Tile:
    """Turn one image in [0, 1] into 8-bit RGB, enlarged where it is small."""
    return enlarge(to_tiles(image_BCHW)[0])


def enlarge(tile_HW3: UInt8[np.ndarray, "H W 3"]) -> Tile:
    """Repeat the pixels of a small tile; nothing is interpolated."""
    zoom = max(1, -(-MIN_SIDE // max(tile_HW3.shape[:2])))
    return tile_HW3.repeat(zoom, axis=0).repeat(zoom, axis=1)


def error_tile(error_HW: Float[Tensor, "H W"]) -> Tile:
    """Draw errors as shares of the range, on a scale that is the same for all."""
    return enlarge(_heat(error_HW / BRIGHTEST_ERROR))


def attention_tile(
    map_hw: Float[Tensor, "rows cols"], image_BCHW: Float[Tensor, "1 C H W"]
) -> Tile:
    """Lay a map over a picture in [0, 1]; the largest value is brightest."""
    patch = image_BCHW.shape[2] // map_hw.shape[0]
    heat = _heat(map_hw / map_hw.max())
    heat = heat.repeat(patch, axis=0).repeat(patch, axis=1)
    below = to_tiles(image_BCHW.mean(dim=1, keepdim=True))[0]
    mixed = (1 - SEEN_BELOW) * heat + SEEN_BELOW * below
    return enlarge(mixed.round().astype(np.uint8))


def feature_colours(
    tokens_LD: Float[Tensor, "L D"], grid: tuple[int, int]
) -> Float[Tensor, "1 3 rows cols"]:
    """Return the three largest principal components of an image's patches, as RGB.

    Each is scaled to [0, 1] over the image. Those without variance are black. The sign
    of each is such that its largest loading is positive.
    """
    centred = (tokens_LD - tokens_LD.mean(dim=0)).double()
    _, scale_K, loadings_KD = torch.linalg.svd(centred, full_matrices=False)
    loadings_KD = loadings_KD[:3]
    largest = loadings_KD.abs().argmax(dim=1, keepdim=True)
    projected_LK = centred @ (loadings_KD * loadings_KD.gather(1, largest).sign()).T
    low_K, high_K = projected_LK.amin(dim=0), projected_LK.amax(dim=0)
    # what is left by rounding is no component
    is_real = scale_K[:3] > scale_K[0] * len(tokens_LD) * torch.finfo(torch.float32).eps
    span_K = torch.where(is_real, high_K - low_K, torch.inf)
    colours_L3 = torch.zeros(len(tokens_LD), 3)
    colours_L3[:, : len(span_K)] = ((projected_LK - low_K) / span_K).float()
    return colours_L3.T.reshape(1, 3, *grid)


def _heat(shares_HW: Float[Tensor, "H W"]) -> Tile:
    return HEAT(shares_HW.clamp(0, 1).numpy(), bytes=True)[..., :3]
