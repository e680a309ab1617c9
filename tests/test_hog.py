"""Histograms equal a loop over pixels, turn with the image and ignore its light."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from unmask.hog import hog, hog_dim
from unmask.patches import patchify


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_histogram(
    image_HW: np.ndarray, rows: range, cols: range, bins: int
) -> np.ndarray:
    """Compute one cell of one channel, pixel by pixel.

    Past the border the image is reflected about its last pixel.
    """

    def at(row: int, col: int) -> float:
        row, col = (
            min(abs(i), 2 * (size - 1) - abs(i))
            for i, size in zip((row, col), image_HW.shape, strict=True)
        )
        return float(image_HW[row, col])

    histogram = np.zeros(bins)
    for row in rows:
        for col in cols:
            right, down = (
                at(row, col + 1) - at(row, col - 1),
                at(row + 1, col) - at(row - 1, col),
            )
            angle = math.atan2(down, right) % math.pi
            histogram[int(angle / math.pi * bins) % bins] += math.sqrt(
                right**2 + down**2
            )
    length = math.sqrt((histogram**2).sum())
    return histogram / length if length > 0 else histogram


def slow_hog(image_CHW: np.ndarray, patch: int, bins: int) -> np.ndarray:
    """Compute all patches; the order in a patch is row, column, bin, channel."""
    channels, height, width = image_CHW.shape
    cell = patch if patch % 2 else patch // 2
    patches = []
    for top in range(0, height, patch):
        for left in range(0, width, patch):
            numbers: list[float] = []
            for row in range(top, top + patch, cell):
                for col in range(left, left + patch, cell):
                    area = range(row, row + cell), range(col, col + cell)
                    by_channel = [
                        slow_histogram(image_CHW[c], *area, bins)
                        for c in range(channels)
                    ]
                    numbers += [
                        by_channel[c][k] for k in range(bins) for c in range(channels)
                    ]
            patches.append(numbers)
    return np.array(patches)


@pytest.mark.parametrize(
    ("height", "width", "patch", "channels", "bins"),
    [
        (8, 8, 4, 1, 9),
        (16, 8, 8, 3, 9),
        (12, 24, 4, 3, 6),
        (9, 15, 3, 2, 9),
        (10, 5, 5, 4, 4),
        (4, 6, 2, 3, 9),
        (3, 4, 1, 1, 9),
        (32, 32, 16, 3, 9),
        (28, 28, 14, 1, 9),
        (2, 2, 2, 1, 1),
    ],
)
def test_histograms_are_those_of_a_loop_over_pixels(
    height: int, width: int, patch: int, channels: int, bins: int
) -> None:
    images = noise(2, channels, height, width)
    ours = hog(images, patch, bins)
    theirs = torch.from_numpy(
        np.stack([slow_hog(image, patch, bins) for image in images.double().numpy()])
    )
    assert ours.shape == (2, height * width // patch**2, hog_dim(patch, channels, bins))
    torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("patch", "channels", "bins", "dim"),
    [(16, 3, 9, 108), (7, 1, 9, 9), (1, 3, 9, 27), (4, 1, 8, 32)],
)
def test_a_patch_of_sixteen_pixels_has_the_108_numbers_of_maskfeat(
    patch: int, channels: int, bins: int, dim: int
) -> None:
    """4 cells of 9 bins for each of 3 channels; a patch without a half is one cell."""
    assert hog_dim(patch, channels, bins) == dim


def by_bin(features_BLT: Tensor, patch: int, channels: int, bins: int) -> Tensor:
    side = round((hog_dim(patch, channels, bins) / bins / channels) ** 0.5)
    return features_BLT.unflatten(2, (side, side, bins, channels))


def test_an_image_turned_by_90_degrees_has_turned_cells_and_shifted_bins() -> None:
    """A quarter of a turn is half of the 8 bins: bin k becomes bin k + 4."""
    images, patch, bins = noise(3, 2, 16, 16), 4, 8
    cells = (
        hog(images, patch, bins)
        .view(3, 4, 4, 2, 2, bins, 2)
        .permute(0, 5, 6, 1, 3, 2, 4)
        .reshape(3, bins, 2, 8, 8)
    )
    turned = hog(images.rot90(1, (2, 3)), patch, bins).view(3, 4, 4, 2, 2, bins, 2)
    turned = turned.permute(0, 5, 6, 1, 3, 2, 4).reshape(3, bins, 2, 8, 8)
    torch.testing.assert_close(
        turned, cells.rot90(1, (3, 4)).roll(4, dims=1), rtol=0, atol=1e-6
    )


def test_a_mirrored_image_has_mirrored_orientations() -> None:
    """The upper and lower border are empty.

    Gradients exactly to the side lie on a bin's edge and do not mirror.
    """
    images = noise(3, 1, 12, 12)
    images[:, :, [0, 1, -2, -1]] = 0
    ours, mirrored = (
        by_bin(hog(view, 12), 12, 1, 9) for view in (images, images.flip(3))
    )
    torch.testing.assert_close(mirrored, ours.flip(3).flip(4), rtol=0, atol=1e-6)


@pytest.mark.parametrize("level", [0.0, 0.3, -2.117904, 255.0])
def test_an_image_of_one_shade_has_no_orientation(level: float) -> None:
    assert hog(torch.full((2, 3, 8, 8), level), 4).eq(0).all()


@pytest.mark.parametrize("angle", [5, 15, 25, 50, 70, 89, 91, 110, 135, 165, 175])
@pytest.mark.parametrize("bins", [9, 6])
def test_a_slope_falls_into_the_bin_of_its_angle_and_has_length_one(
    angle: int, bins: int
) -> None:
    """Brightness rises towards `angle`, from right to down; falling is the same bin."""
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    slope = x * math.cos(math.radians(angle)) + y * math.sin(math.radians(angle))
    expected = torch.zeros(bins)
    expected[int(angle * bins / 180)] = 1
    middle = 4  # of 3 x 3 patches: the image's border has its own gradients
    for image in (slope, -slope, 7 * slope):
        cells = by_bin(hog(image[None, None], 8, bins), 8, 1, bins)[0, middle, ..., 0]
        torch.testing.assert_close(cells, expected.expand(2, 2, -1), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("upright", "bin_of_edge"), [(True, 0), (False, 4)])
def test_an_edge_changes_only_the_cells_that_it_touches(
    upright: bool, bin_of_edge: int
) -> None:
    """Pixels 3 and 4 differ: both have a gradient, and they lie in two cells."""
    image = torch.zeros(1, 1, 16, 16)
    image[..., 4:] = 1
    image = image if upright else image.mT
    cells = by_bin(hog(image, 8), 8, 1, 9)[..., 0]
    assert cells[..., bin_of_edge].unique().tolist() == [0, 1]
    # 4 patches in 2 x 2 cells; the two patches along the edge have all four
    assert cells.sum().item() == 8
    along = cells.view(2, 2, 2, 2, 9)
    assert (along[:, 0] if upright else along[0])[..., bin_of_edge].eq(1).all()


def test_light_and_contrast_of_a_channel_do_not_matter() -> None:
    """Normalised and raw pixels have the same target, and so has a negative image."""
    images = noise(2, 3, 16, 16)
    gain, light = (
        torch.tensor([0.2, 3.0, -1.0]).view(3, 1, 1),
        torch.tensor([5.0, -1.0, 0.0]).view(3, 1, 1),
    )
    torch.testing.assert_close(
        hog(images * gain + light, 8), hog(images, 8), rtol=0, atol=2e-5
    )


def test_patches_come_in_the_order_of_patchify() -> None:
    """Only the patch with texture, well inside of it, has a histogram."""
    images = torch.zeros(1, 2, 24, 32)
    images[:, :, 9:15, 17:23] = noise(2, 6, 6)
    textured = patchify(images, 8).ne(0).any(2)
    assert hog(images, 8).ne(0).any(2).equal(textured)
    assert textured.nonzero().tolist() == [[0, 6]]


def test_autocast_and_precision_of_the_images_do_not_touch_histograms() -> None:
    images = noise(2, 3, 16, 16) + 10
    expected = hog(images, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert hog(images, 4).equal(expected)
    assert hog(images.bfloat16(), 4).equal(hog(images.bfloat16().float(), 4))
    assert hog(images.bfloat16(), 4).dtype == torch.float32


def test_a_patch_that_does_not_divide_the_image_is_refused() -> None:
    with pytest.raises(
        ValueError, match="patch_size=3 does not divide an image of 8 x 9 pixels"
    ):
        hog(torch.zeros(1, 1, 8, 9), 3)
