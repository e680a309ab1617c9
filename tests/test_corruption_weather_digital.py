"""Weather and digital corruptions follow their definitions."""

import colorsys
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from sample_pictures import flat, scene, scenes
from unmask.data.augment.corruptions import corrupt
from unmask.data.augment.corruptions.digital import (
    contrast,
    elastic_displacements,
    elastic_transform,
    inverse_affine,
)
from unmask.data.augment.corruptions.filters import sample_bilinear
from unmask.data.augment.corruptions.random import Draws
from unmask.data.augment.corruptions.severities import CIFAR, IMAGENET
from unmask.data.augment.corruptions.weather import (
    brightness,
    fog,
    frost,
    ice_texture,
    plasma_fractal,
    snow,
)
from unmask.randomness import Key


@pytest.fixture
def draws(key: Key) -> Draws:
    return Draws(key, 3)


def test_snow_without_flakes_is_a_mix_with_the_whitened_scene(draws: Draws) -> None:
    image = scene()
    luma = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
    expected = 0.7 * image + 0.3 * torch.maximum(image, 1.5 * luma + 0.5)
    assert snow(image, draws, 0.1, 0.3, 3, 99.0, 10, 4, 0.7).allclose(
        expected, atol=1e-6
    )


@pytest.mark.parametrize("channels", [1, 3, 12])
def test_snow_adds_flakes_and_the_same_flakes_turned_by_180_degrees(
    channels: int, draws: Draws
) -> None:
    snowed = snow(flat(0.0, channels), draws, 0.2, 0.3, 2, 0.5, 12, 4, 0.7)
    flakes = snowed - 0.3 * 0.5  # a black scene whitens to 0.5
    assert flakes.min() >= -1e-6
    assert flakes.max() > 0.5
    assert flakes.allclose(flakes.flip(1, 2))
    assert (flakes == flakes[:1]).all()


@pytest.mark.parametrize("thickness", [0.2, 1.5, 3])
def test_fog_adds_a_fractal_between_zero_and_one_and_scales(
    thickness: float, draws: Draws
) -> None:
    image = scene(3, 64, 64)
    fogged = fog(image, draws, thickness, 2.0)
    added = fogged * (image.max() + thickness) / image.max() - image
    assert added.allclose(
        thickness * plasma_fractal(draws, 0, (64, 64), 2.0).expand(3, -1, -1), atol=1e-4
    )
    assert (added.min().item(), added.max().item()) == pytest.approx(
        (0, thickness), abs=1e-4
    )
    assert (fog(flat(0.0), draws, thickness, 2.0) == 0).all()


def residuals(field: Tensor) -> Tensor:
    """Return the middles of squares minus the mean of their corners."""
    corners = field[::2, ::2]
    return (
        field[1::2, 1::2]
        - (
            corners
            + corners.roll(-1, 0)
            + corners.roll(-1, 1)
            + corners.roll((-1, -1), (0, 1))
        )
        / 4
    )


@pytest.mark.parametrize("decay", [1.4, 2, 3])
def test_noise_of_the_fractal_falls_by_the_square_of_the_decay_and_edges_are_means(
    decay: float, draws: Draws
) -> None:
    field = plasma_fractal(draws, 0, (128, 128), decay)
    assert (
        residuals(field[::2, ::2]).std() / residuals(field).std()
    ).item() == pytest.approx(decay**2, rel=0.1)
    calm = plasma_fractal(draws, 0, (64, 64), 1e6)  # no noise after the first halving
    assert calm[16, 16].item() == pytest.approx(
        calm[::32, ::32].mean().item(), abs=1e-5
    )
    around = (calm[0, 0] + calm[0, 32] + calm[16, 16] + calm[48, 16]) / 4
    assert calm[0, 16].item() == pytest.approx(around.item(), abs=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 12])
def test_frost_is_a_weighted_sum_of_scene_and_ice(channels: int, draws: Draws) -> None:
    image = scene(channels)
    ice = frost(image, draws, 0.7, 0.6) - 0.7 * image
    texture = ice_texture(draws, (40, 56))
    assert ice[-1].allclose(0.6 * texture, atol=1e-6)
    assert texture.min() >= 0
    assert texture.max() <= 1
    if channels == 3:  # bluish
        assert (ice[0] < ice[1]).all()
        assert (ice[1] < ice[2]).all()


@pytest.mark.parametrize("size", [(32, 32), (128, 160)])
def test_ice_covers_a_part_of_every_image_and_has_edges(
    size: tuple[int, int], key: Key
) -> None:
    textures = torch.stack(
        [ice_texture(Draws(key, sample), size) for sample in range(8)]
    )
    assert textures.mean((1, 2)).min() > 0.15
    assert textures.mean((1, 2)).max() < 0.85
    assert textures.std((1, 2)).min() > 0.08


def test_brightness_raises_the_hsv_value_only(draws: Draws) -> None:
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    image[:, 0, 0] = 0
    brighter = brightness(image, draws, 0.3)
    for before, after in zip(
        image.flatten(1).T.tolist(), brighter.flatten(1).T.tolist(), strict=True
    ):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        assert after == pytest.approx(
            colorsys.hsv_to_rgb(hue, saturation, min(1, value + 0.3)), abs=1e-5
        )


@pytest.mark.parametrize("channels", [1, 12])
def test_brightness_of_other_channels_raises_the_largest_and_keeps_ratios(
    channels: int, draws: Draws
) -> None:
    image = scene(channels)
    brighter = brightness(image, draws, 0.2)
    assert brighter.amax(0).allclose((image.amax(0) + 0.2).clamp(max=1), atol=1e-6)
    assert (brighter * image.amax(0)).allclose(image * brighter.amax(0), atol=1e-6)


def test_contrast_scales_deviations_from_the_mean_of_each_channel(draws: Draws) -> None:
    image = scene()
    mean = image.mean((1, 2), keepdim=True)
    changed = contrast(image, draws, 0.3)
    assert changed.mean((1, 2), keepdim=True).allclose(mean, atol=1e-6)
    assert (changed - mean).allclose(0.3 * (image - mean), atol=1e-6)


@pytest.mark.parametrize("boundary", ["mirror", "reflect", "nearest"])
def test_bilinear_sampling_equals_scipys(boundary: str) -> None:
    image, generator = scene(1), torch.Generator().manual_seed(0)
    y, x = (torch.rand(2, 30, 30, generator=generator) * 3 - 1) * torch.tensor(
        [40, 56]
    )[:, None, None]
    expected = ndimage.map_coordinates(
        image[0].numpy(), [y.numpy(), x.numpy()], order=1, mode=boundary
    )
    assert np.allclose(sample_bilinear(image, y, x, boundary), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("amplitude", "sigma", "affine"),
    [*IMAGENET["elastic_transform"], *CIFAR["elastic_transform"]],
)
def test_elastic_displacements_are_smooth_noise_within_their_bounds(
    amplitude: float, sigma: float, affine: float, draws: Draws
) -> None:
    field = elastic_displacements(draws, (40, 56), amplitude, sigma)
    noise = 2 * draws.uniform(1, 2, 40, 56).numpy() - 1
    for ours, raw in zip(field, noise, strict=True):
        expected = (
            amplitude * ndimage.gaussian_filter(raw, sigma, mode="reflect", truncate=3)
            if sigma
            else 0 * raw
        )
        assert np.allclose(ours, expected, atol=max(amplitude, 1) * 1e-4)
    assert field.abs().max() <= amplitude
    # a third of 40 around (20, 28)
    corners = torch.tensor([[33.0, 41.0], [7.0, 41.0], [7.0, 15.0]])
    moved = torch.linalg.inv(
        torch.cat(
            [inverse_affine(draws, (40, 56), affine), torch.tensor([[0.0], [0], [1]])],
            1,
        )
    )
    shift = torch.cat([corners, torch.ones(3, 1)], 1) @ moved[:, :2] - corners
    assert 0 < shift.abs().max() <= affine + 1e-3


def test_elastic_without_displacement_is_the_image(draws: Draws) -> None:
    assert elastic_transform(scene(), draws, 0, 0, 0).allclose(scene(), atol=1e-4)


def test_pixelated_blocks_are_means_of_boxes(key: Key) -> None:
    image = scenes(1, 3, 128, 192)
    # a quarter of the side
    coarse = corrupt(image, "pixelate", 5, key, torch.arange(1))
    blocks = coarse.view(1, 3, 32, 4, 48, 4)
    assert (blocks == blocks[:, :, :, :1, :, :1]).all()
    means = image.float().view(1, 3, 32, 4, 48, 4).mean((3, 5))
    # Pillow rounds after each of its two passes
    assert (blocks[:, :, :, 0, :, 0] - means).abs().max() <= 1


@pytest.mark.parametrize("channels", [1, 3, 12])
def test_jpeg_equals_pillows_at_the_published_quality(channels: int, key: Key) -> None:
    image = scenes(1, channels, 40, 56)
    ours = corrupt(image, "jpeg_compression", 4, key, torch.arange(1))[0]
    parts = (
        [image[0].permute(1, 2, 0).numpy()]
        if channels == 3
        else [channel.numpy() for channel in image[0]]
    )
    expected = []
    for part in parts:
        file = BytesIO()
        Image.fromarray(np.ascontiguousarray(part)).save(file, "JPEG", quality=50)
        expected.append(np.atleast_3d(np.array(Image.open(file))).transpose(2, 0, 1))
    assert np.array_equal(ours, np.concatenate(expected))
