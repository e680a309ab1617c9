"""The view of an image that evaluation sees: official to rounding, of any file.

The view of a whole image is resized as a crop is. Otherwise torch resizes the image
from its corner to where the view ends, and the view is cut out: torch is twice as fast
as Pillow, but resizes no box between pixels.
"""

import numpy as np
import torch
from torch.nn.functional import interpolate

from unmask.data.images.decoding import (
    Box,
    DecodeMode,
    EncodedImage,
    decode_by_reference,
    decode_crop,
    decode_region,
    resize_crop,
    to_pixels,
)
from unmask.data.images.depth import Pixels
from unmask.data.images.pillow import resize_part
from unmask.data.images.view_box import (
    ViewBox,
    covers,
    is_cut_out,
    resizes_height_first,
    surroundings,
)

# of a scale: what rounding may take away must not cost a row
ROUNDING = 1e-9


def decode_view(
    image: EncodedImage, box: ViewBox, shape: tuple[int, int], decode: DecodeMode
) -> Pixels:
    """Decode what a view needs and resize it to `shape`. Raises BadImageError.

    Evaluation never decodes at a part of the size: that changes the pixels.
    """
    decode = "fast" if decode == "scaled" else decode
    size = image.size
    if covers(box, size):
        return decode_crop(image, (0, 0, *size), shape, decode)
    region, by_pillow = _needed(box, size, shape, decode)
    if image.header and decode != "reference":
        values = decode_region(image, region)
        if values is not None:
            pixels = to_pixels(values, image)
            return _resize(pixels, region, box, shape, by_pillow)
    return resize_view(decode_by_reference(image), box, shape, decode)


def resize_view(
    pixels_HWC: Pixels, box: ViewBox, shape: tuple[int, int], decode: DecodeMode
) -> Pixels:
    """Resize the view of an image that is decoded already."""
    size = (pixels_HWC.shape[0], pixels_HWC.shape[1])
    if covers(box, size):
        return resize_crop(pixels_HWC, (0, 0, *size), shape, decode)
    region, by_pillow = _needed(box, size, shape, decode)
    top, left, height, width = region
    cut_HWC = pixels_HWC[top : top + height, left : left + width]
    return _resize(cut_HWC, region, box, shape, by_pillow)


def _needed(
    box: ViewBox, size: tuple[int, int], shape: tuple[int, int], decode: DecodeMode
) -> tuple[Box, str]:
    """Return the whole pixels that a view needs, and how Pillow resizes them.

    That is "height" or "width", whichever it resizes first; "" for torch.
    """
    top, left, height, width = surroundings(box, size, shape)
    if is_cut_out(box, shape):
        return (top, left, height, width), "width"
    ends = (top + height, left + width)
    # torch knows one order alone
    if resizes_height_first(size, box, shape):
        return (top, left, height, width), "height"
    # torch takes a side that keeps its number of pixels for one that is not resized
    scales = _scales(box, shape)
    is_kept = any(
        int(end * scale) == end and length != side
        for end, scale, length, side in zip(ends, scales, box[2:], shape, strict=True)
    )
    if decode == "reference" or is_kept:
        return (top, left, height, width), "width"
    return (0, 0, *ends), ""


def _scales(box: ViewBox, shape: tuple[int, int]) -> list[float]:
    """Return how much larger a view is than its box, rounded up by a trace."""
    sides = zip(shape, box[2:], strict=True)
    return [wanted / length * (1 + ROUNDING) for wanted, length in sides]


def _resize(
    region_HWC: Pixels,
    region: Box,
    box: ViewBox,
    shape: tuple[int, int],
    by_pillow: str,
) -> Pixels:
    top, left, height, width = box
    inside = (top - region[0], left - region[1], height, width)
    if by_pillow:
        return resize_part(region_HWC, inside, shape, by_pillow == "height")
    scales = _scales(box, shape)
    # the batch axis must come before the permutation: only then does torch see the
    # channels-last layout, and keeps it
    batch = torch.from_numpy(np.ascontiguousarray(region_HWC))[None]
    out = interpolate(
        batch.permute(0, 3, 1, 2),
        scale_factor=scales,
        mode="bicubic",
        antialias=True,
        recompute_scale_factor=False,
    )
    if out.is_floating_point():
        # the kernel overshoots at edges
        out = out.clamp_(0, 1)
    y, x = round(top * scales[0]), round(left * scales[1])
    view = out[0, :, y : y + shape[0], x : x + shape[1]]
    return view.permute(1, 2, 0).numpy()
