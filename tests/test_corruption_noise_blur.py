"""Noise has its published distribution, and blurs are the filters that define them."""

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from sample_pictures import flat, scene
from unmask.data.augment.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from unmask.data.augment.corruptions.blur import (
    defocus_blur,
    disk_kernel,
    glass_blur,
    motion_blur,
    shuffled_indices,
    zoom_blur,
)
from unmask.data.augment.corruptions.filters import blur_along_line, gaussian_blur, zoom
from unmask.data.augment.corruptions.noise import (
    gaussian_noise,
    impulse_noise,
    shot_noise,
)
from unmask.data.augment.corruptions.random import Draws
from unmask.data.augment.corruptions.severities import CIFAR, IMAGENET
from unmask.randomness import Key

MIN_P_VALUE = 1e-3  # draws are fixed: a test that passes once always passes


@pytest.fixture
def draws(key: Key) -> Draws:
    return Draws(key, 3)


@pytest.mark.parametrize("table", [IMAGENET, CIFAR], ids=["imagenet", "cifar"])
def test_gaussian_noise_is_normal_with_the_published_sigma(
    table: dict, draws: Draws
) -> None:
    for (sigma,) in table["gaussian_noise"]:
        noise = (gaussian_noise(flat(0.5), draws, sigma) - 0.5) / sigma
        assert stats.kstest(noise.flatten(), "norm").pvalue > MIN_P_VALUE


def test_the_noise_of_an_image_in_bytes_has_the_published_sigma(key: Key) -> None:
    """0.08 and 0.12 do not reach black or white: only rounding adds to the variance."""
    for severity, sigma in ((1, 0.08), (2, 0.12)):
        grey = torch.full((2, 3, 128, 128), 128, dtype=torch.uint8)
        noisy = corrupt(grey, "gaussian_noise", severity, key, torch.arange(2)).double()
        assert noisy.std() / 255 == pytest.approx(sigma, rel=0.01)
        assert noisy.mean() == pytest.approx(128, abs=0.5)


@pytest.mark.parametrize("photons", [3, 60, 500])
@pytest.mark.parametrize("level", [20, 128, 255])
def test_shot_noise_counts_are_poisson(
    photons: float, level: int, draws: Draws
) -> None:
    counts = (shot_noise(flat(level / 255), draws, photons) * photons).double()
    assert (counts - counts.round()).abs().max() < 1e-3
    distribution = stats.poisson(photons * level / 255)
    cuts = np.unique(distribution.ppf(np.linspace(0.05, 0.95, 10)))
    seen = np.histogram(counts.round(), [-0.5, *(cuts + 0.5), np.inf])[0]
    assert (
        stats.chisquare(
            seen, np.diff([0, *distribution.cdf(cuts), 1]) * counts.numel()
        ).pvalue
        > MIN_P_VALUE
    )
    assert counts.var() == pytest.approx(distribution.var(), rel=0.05)


def test_shot_noise_leaves_black_black(draws: Draws) -> None:
    assert (shot_noise(flat(0.0), draws, 3) == 0).all()


@pytest.mark.parametrize("share", [0.01, 0.27])
def test_impulse_noise_turns_half_of_its_share_white_and_half_black(
    share: float, draws: Draws
) -> None:
    noisy = impulse_noise(flat(0.5), draws, share)
    counts = [int((noisy == value).sum()) for value in (0.0, 1.0, 0.5)]
    assert sum(counts) == noisy.numel()
    assert (
        stats.chisquare(
            counts, np.array([share / 2, share / 2, 1 - share]) * noisy.numel()
        ).pvalue
        > MIN_P_VALUE
    )


@pytest.mark.parametrize(
    ("radius", "edge"), [*IMAGENET["defocus_blur"], *CIFAR["defocus_blur"]]
)
def test_defocus_is_a_convolution_with_a_soft_disk_of_sum_one(
    radius: float, edge: float, draws: Draws
) -> None:
    kernel = disk_kernel(radius, edge)
    assert kernel.sum().item() == pytest.approx(1, abs=1e-6)
    assert kernel.allclose(kernel.flip(0))
    assert kernel.allclose(kernel.T)
    steps = torch.arange(len(kernel)) - len(kernel) // 2
    moment = (kernel * (steps[:, None] ** 2 + steps**2)).sum().item()
    if radius >= 3:  # a disk's second moment is r^2 / 2; smaller ones are a few pixels
        assert moment == pytest.approx(radius**2 / 2 + 2 * edge**2, rel=0.12)
    expected = [
        ndimage.convolve(channel, kernel.numpy(), mode="mirror")
        for channel in scene().numpy()
    ]
    assert np.allclose(defocus_blur(scene(), draws, radius, edge), expected, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.05, 0.4, 1.5])
def test_gaussian_blur_equals_scipys(sigma: float) -> None:
    expected = [
        ndimage.gaussian_filter(channel, sigma, mode="nearest")
        for channel in scene().numpy()
    ]
    assert np.allclose(gaussian_blur(scene(), sigma), expected, atol=1e-5)


def test_glass_copies_pixels_from_nearby(draws: Draws) -> None:
    """At reach 1 the four pixels left and above are equally likely."""
    indices = shuffled_indices((40, 56), draws, 1, 1).view(40, 56)
    down, right = (
        indices // 56 - torch.arange(40)[:, None],
        indices % 56 - torch.arange(56),
    )
    inner = torch.zeros(40, 56, dtype=torch.bool)
    inner[2:, 2:] = True
    assert (down[~inner] == 0).all()
    assert (right[~inner] == 0).all()
    moves = torch.bincount((-2 * down - right)[inner], minlength=4)
    assert len(moves) == 4
    assert stats.chisquare(moves).pvalue > MIN_P_VALUE


@pytest.mark.parametrize(("sigma", "reach", "passes"), IMAGENET["glass_blur"])
def test_glass_blurs_then_shuffles_then_blurs(
    sigma: float, reach: int, passes: int, draws: Draws
) -> None:
    indices = shuffled_indices((40, 56), draws, reach, passes)
    moved = torch.hypot(
        *(
            (indices // 56 - torch.arange(2240) // 56).float(),
            (indices % 56 - torch.arange(2240) % 56).float(),
        )
    )
    assert 0 < moved.mean() <= 2**0.5 * reach * passes
    expected = gaussian_blur(
        gaussian_blur(scene(), sigma).flatten(1)[:, indices].view(3, 40, 56), sigma
    )
    assert glass_blur(scene(), draws, sigma, reach, passes).equal(expected)


@pytest.mark.parametrize(
    ("degrees", "towards"), [(0, (0, -1)), (90, (-1, 0)), (45, (-1, -1)), (-90, (1, 0))]
)
def test_a_moving_point_leaves_half_a_gaussian_along_its_line(
    degrees: float, towards: tuple[int, int]
) -> None:
    image = torch.zeros(1, 41, 41)
    image[0, 20, 20] = 1
    blurred = blur_along_line(image, 6, 2, degrees)[0]
    weights = np.exp(-0.5 * (np.arange(8) / 2) ** 2)
    line = [blurred[20 + i * towards[0], 20 + i * towards[1]].item() for i in range(8)]
    # a diagonal has one pixel for 1.4 steps, so that some pixels get two of them
    if degrees == 45:
        assert (np.array(line[:5]) > 0).all()
    else:
        assert line == pytest.approx(
            weights / np.exp(-0.5 * (np.arange(13) / 2) ** 2).sum(), abs=1e-6
        )
    assert blurred.sum().item() == pytest.approx(1, abs=1e-5)


def test_motion_blur_goes_in_every_direction_up_to_45_degrees(key: Key) -> None:
    image = torch.zeros(1, 101, 101)
    image[0, 50, 50] = 1
    steps = torch.arange(101) - 50
    angles = []
    for sample in range(200):
        blurred = motion_blur(image, Draws(key, sample), 20, 15)[0]
        angles.append(
            np.degrees(
                np.arctan2(
                    -(blurred.sum(1) * steps).sum(), -(blurred.sum(0) * steps).sum()
                )
            )
        )
    assert stats.kstest(angles, stats.uniform(-45, 90).cdf).pvalue > MIN_P_VALUE


@pytest.mark.parametrize("factor", [1.0, 1.01, 1.11, 1.25, 3, 4.5])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (56, 41)])
def test_zooming_is_scipys_linear_zoom_of_the_centre(
    factor: float, height: int, width: int
) -> None:
    image, kept = (
        scene(2, height, width),
        [int(np.ceil(side / factor)) for side in (height, width)],
    )
    top, left = [
        (side - part) // 2 for side, part in zip((height, width), kept, strict=True)
    ]
    cut = image[:, top : top + kept[0], left : left + kept[1]].numpy()
    grown = ndimage.zoom(cut, (1, factor, factor), order=1)
    top, left = [
        (big - side) // 2
        for big, side in zip(grown.shape[1:], (height, width), strict=True)
    ]
    assert np.allclose(
        zoom(image, factor),
        grown[:, top : top + height, left : left + width],
        atol=1e-4,
    )


def test_zoom_blur_is_the_mean_of_the_image_and_its_zooms(draws: Draws) -> None:
    # 1, 1.01, ... 1.06
    expected = (2 * scene() + sum(zoom(scene(), 1 + i / 100) for i in range(1, 7))) / 8
    assert zoom_blur(scene(), draws, *CIFAR["zoom_blur"][0]).allclose(
        expected, atol=1e-5
    )


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in CORRUPTIONS
        if name.endswith(("blur", "transform", "pixelate", "contrast"))
    ],
)
@pytest.mark.parametrize("size", [(32, 48), (130, 128)])
def test_what_moves_or_averages_pixels_keeps_a_constant_image(
    name: str, size: tuple[int, int], key: Key
) -> None:
    image = torch.tensor([17, 101, 255], dtype=torch.uint8)[None, :, None, None].expand(
        1, 3, *size
    )
    for severity in SEVERITIES:
        assert corrupt(image, name, severity, key, torch.tensor([5])).equal(image)
