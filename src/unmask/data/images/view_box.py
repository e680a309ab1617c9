"""What evaluation sees of an image, as the official code: Resize, then CenterCrop.

Both are done at once: the box that the crop cuts out of the resized image is scaled
back to the image itself, where its edges lie between pixels.
"""

import numpy as np
from jaxtyping import Float64, Int

from unmask.config.data import resized_side

Sizes = Int[np.ndarray, "B 2"]
# top, left, height, width in pixels of the image
ViewBox = tuple[float, float, float, float]
BICUBIC_REACH = 2.0  # pixels of the coarser of two images


def view_boxes(
    sizes_B2: Sizes, shape: tuple[int, int], share: float
) -> Float64[np.ndarray, "B 4"]:
    """Return the box (top, left, height, width) that evaluation sees of each image.

    It becomes an image of `shape`, the centre of the resized one, whose side is shape /
    share. Where the image is resized to `shape` itself, the box is the whole image.
    """
    resized_B2 = resized_sizes(sizes_B2, shape, share)
    # as torchvision: to the nearest pixel, halves to even ones
    corner_B2 = np.round((resized_B2 - shape) / 2)
    # multiplied first: what is whole in the image then stays whole
    top_left_B2 = corner_B2 * sizes_B2 / resized_B2
    return np.hstack([top_left_B2, np.array(shape) * sizes_B2 / resized_B2])


def resized_sizes(sizes_B2: Sizes, shape: tuple[int, int], share: float) -> Sizes:
    """Return the size that each image is resized to before its centre is cut out.

    It is the smallest of the image's aspect that covers shape / share, with fractions
    cut off. If `shape` is a square, the short side becomes that, as in torchvision.
    """
    wanted = np.array([resized_side(side, share) for side in shape])
    # of (height, width), the one that must be scaled more decides
    across_B = sizes_B2[:, 1] * wanted[0] // sizes_B2[:, 0]
    down_B = sizes_B2[:, 0] * wanted[1] // sizes_B2[:, 1]
    height_decides_B = sizes_B2[:, 0] * wanted[1] <= sizes_B2[:, 1] * wanted[0]
    return np.stack(
        [
            np.where(height_decides_B, wanted[0], down_B),
            np.where(height_decides_B, across_B, wanted[1]),
        ],
        axis=1,
    )


def covers(box: ViewBox, size: tuple[int, int]) -> bool:
    """Return whether a box is the whole image, whose view is resized as crops are."""
    return tuple(box) == (0, 0, *size)


def is_cut_out(box: ViewBox, shape: tuple[int, int]) -> bool:
    """Return whether a box is cut out as it is: whole pixels, as many as its view."""
    return box[2:] == shape and all(start == int(start) for start in box[:2])


def resizes_height_first(
    size: tuple[int, int], box: ViewBox, shape: tuple[int, int]
) -> bool:
    """Return whether Pillow would resize the height of the whole image first.

    It does where that takes away more than twice as many rows as columns. The result is
    rounded to bytes in between, so that the order can be seen.
    """
    removed = [
        side - round(side * wanted / length)
        for side, wanted, length in zip(size, shape, box[2:], strict=True)
    ]
    return removed[0] > 0 and removed[0] > 2 * removed[1]


def surroundings(
    box: ViewBox, size: tuple[int, int], shape: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return the whole pixels (top, left, height, width) that count for a view.

    A bicubic kernel reaches beyond the box, but not beyond the image.
    """
    starts, ends = [], []
    for start, length, side, wanted in zip(box[:2], box[2:], size, shape, strict=True):
        per_pixel = length / wanted
        # of the outermost pixels of the view, from their centres on
        reach = BICUBIC_REACH * max(per_pixel, 1) - per_pixel / 2
        starts.append(max(0, int(np.floor(start - reach))))
        ends.append(min(side, int(np.ceil(start + length + reach))))
    (top, left), (bottom, right) = starts, ends
    return top, left, bottom - top, right - left
