"""Corrupted images are functions of (key, corruption, severity, id).

That holds for any number of channels, any size and any batch.
"""

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from sample_pictures import scenes
from unmask.data.augment.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from unmask.data.augment.corruptions.severities import (
    CIFAR,
    CONSTANT_MEANINGS,
    IMAGENET,
    severity_constants,
)
from unmask.randomness import Key, make_key
from unmask.training.corruption_error import ALEXNET_ERRORS

# corruptions that draw nothing
DETERMINISTIC = (
    "defocus_blur",
    "zoom_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
)

# Squared error does not rise at every step of the published severities. It does from 1
# to 5, but for elastic_transform.
UNEVEN = {
    (
        "glass_blur",
        32,
    ): "severities 3 and 5 blur more than 2 and 4 do and shuffle alike",
    ("glass_blur", 128): "the passes are 2, 1, 3, 2 and 2",
    (
        "motion_blur",
        32,
    ): "severities 3 and 4 differ in the cut of a tail only, and in the angles drawn",
    ("frost", 32): "the scene is dimmed while ice is added",
    ("frost", 128): "the scene is dimmed while ice is added",
    ("fog", 128): "severities 3 and 4 differ in the decay only",
    ("elastic_transform", 32): "the affine part shrinks as the waves grow",
    (
        "elastic_transform",
        128,
    ): "severities 1 and 2 move whole objects, 3 to 5 make short waves",
    ("pixelate", 32): "boxes of 1.1 or 1.2 pixels: which pixels they join decides",
}


def test_both_tables_have_five_levels_of_the_fifteen_corruptions_in_the_papers_order() -> (
    None
):
    for table in (IMAGENET, CIFAR):
        assert (
            list(table)
            == list(CORRUPTIONS)
            == list(ALEXNET_ERRORS)
            == list(CONSTANT_MEANINGS)
        )
        for name, levels in table.items():
            assert [len(level) for level in levels] == [
                len(CONSTANT_MEANINGS[name].split(","))
            ] * 5 or name == "zoom_blur"


def test_images_from_128_pixels_on_get_imagenets_constants() -> None:
    assert severity_constants("gaussian_noise", 1, 128, 300) == (0.08,)
    assert severity_constants("gaussian_noise", 1, 300, 127) == (0.04,)


@pytest.mark.parametrize("side", [32, 128])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_error_grows_with_severity_where_the_published_constants_do(
    name: str, side: int, key: Key
) -> None:
    count = 64 if side == 32 else 16
    images, ids = scenes(count, 3, side, side), torch.arange(count)
    errors = [
        (corrupt(images, name, s, key, ids).float() - images.float())
        .square()
        .mean()
        .item()
        for s in SEVERITIES
    ]
    assert min(errors) > 0
    if (name, side) in UNEVEN:
        assert errors != sorted(errors)
        assert errors[4] > errors[0] or name == "elastic_transform"
    else:
        assert errors == sorted(errors)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_is_corrupted_the_same_in_any_batch_and_order(
    name: str, key: Key
) -> None:
    images, ids = scenes(6, 3, 32, 40), torch.tensor([5, 2**40, 0, 77, 3, 12])
    whole = corrupt(images, name, 3, key, ids)
    parts = [
        corrupt(images[i:j], name, 3, key, ids[i:j])
        for i, j in ((0, 1), (1, 5), (5, 6))
    ]
    assert whole.equal(torch.cat(parts))
    order = torch.tensor([3, 0, 5, 4, 1, 2])
    assert whole[order].equal(corrupt(images[order], name, 3, key, ids[order]))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_only_random_corruptions_depend_on_sample_and_key(name: str, key: Key) -> None:
    images = scenes(1, 3, 32, 32)
    one, other_sample, other_key = (
        corrupt(images, name, 4, k, torch.tensor([i]))
        for k, i in ((key, 0), (key, 1), (make_key(1, "test"), 0))
    )
    assert one.equal(other_sample) == (name in DETERMINISTIC)
    assert one.equal(other_key) == (name in DETERMINISTIC)


def test_each_severity_and_corruption_draws_other_numbers(key: Key) -> None:
    grey = torch.full((1, 1, 32, 32), 128, dtype=torch.uint8)
    residuals = [
        corrupt(grey, name, severity, key, torch.tensor([0])).flatten().float()
        for name in ("gaussian_noise", "shot_noise")
        for severity in (1, 2)
    ]
    correlations = np.corrcoef(torch.stack(residuals))[np.triu_indices(4, 1)]
    assert np.abs(correlations).max() < 4 / 32


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize(
    ("channels", "height", "width"),
    [(1, 8, 8), (3, 8, 31), (12, 20, 9), (1, 130, 128), (2, 9, 140)],
)
def test_any_number_of_channels_and_any_size_can_be_corrupted(
    name: str, channels: int, height: int, width: int, key: Key
) -> None:
    images = scenes(2, channels, height, width)
    before, states = (
        images.clone(),
        (
            torch.get_rng_state(),
            np.random.get_state()[1].copy(),
        ),
    )
    mild, strong = (
        corrupt(images, name, severity, key, torch.arange(2)) for severity in (1, 5)
    )
    assert mild.shape == strong.shape == images.shape
    assert not strong.equal(images)  # mild zooms of 8 pixels are less than half a pixel
    assert images.equal(before)
    assert torch.get_rng_state().equal(states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])


def test_an_empty_batch_stays_empty(key: Key) -> None:
    assert corrupt(scenes(1, 3, 32, 32)[:0], "snow", 1, key, torch.arange(0)).shape == (
        0,
        3,
        32,
        32,
    )


@pytest.mark.parametrize(
    ("name", "severity", "side", "message"),
    [
        (
            "gausian_noise",
            1,
            32,
            (
                "no corruption is called 'gausian_noise'; pick one of gaussian_noise,"
                " shot_noise"
            ),
        ),
        (
            "fog",
            0,
            32,
            r"severity=0 is not published; pick one of 1 \(mild\) to 5 \(strong\)",
        ),
        ("fog", 6, 32, "severity=6 is not published"),
        (
            "fog",
            1,
            7,
            (
                "images of 7 x 7 pixels are too small to corrupt; both sides must have"
                " 8 pixels or more"
            ),
        ),
    ],
)
def test_errors_say_what_came_and_what_is_allowed(
    name: str, severity: int, side: int, message: str, key: Key
) -> None:
    with pytest.raises(ValueError, match=message):
        corrupt(scenes(1, 3, side, side), name, severity, key, torch.arange(1))


def test_annotated_shapes_in_the_init_file_of_a_package_are_checked_in_tests(
    key: Key,
) -> None:
    """conftest.py gives the hook each module by name."""
    with pytest.raises(TypeCheckError):
        corrupt(torch.zeros(3, 8, 8, dtype=torch.uint8), "fog", 1, key, torch.arange(1))
