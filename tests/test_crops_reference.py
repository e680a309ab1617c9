"""Boxes equal those of slow loops written from the definitions, and crops equal torchvision's."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as F

from sample_pictures import scenes
from unmask.data.augment.crops import (
    Augmentation,
    fixed_boxes,
    random_boxes,
    single_try_boxes,
)
from unmask.data.augment.resampling import resize_crops
from unmask.randomness import Key, uniform

SIZES = [
    (40, 30),
    (28, 28),
    (100, 300),
    (7, 9),
    (256, 256),
    (500, 333),
    (10, 500),
    (1, 1),
]
SHAPES = [(28, 28), (20, 40), (48, 32)]
Box = list[int]


def slow_try(
    draw: list[float], size: tuple[int, int], scale: tuple[float, float], aspect: float
) -> tuple[int, int]:
    """Return the height and width of a random share of the area.

    The aspect is log-uniform within 3/4 and 4/3 of the wanted one.
    """
    area = size[0] * size[1] * (scale[0] + draw[0] * (scale[1] - scale[0]))
    aspect *= math.exp(math.log(3 / 4) + draw[1] * (math.log(4 / 3) - math.log(3 / 4)))
    return round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))


def slow_position(
    draw: list[float], size: tuple[int, int], sides: tuple[int, int]
) -> Box:
    """Draw a box of these sides, uniformly inside the image."""
    return [
        *(
            math.floor(u * (n - side + 1))
            for u, n, side in zip(draw, size, sides, strict=True)
        ),
        *sides,
        0,
    ]


def slow_random(
    draws: list[list[float]],
    size: tuple[int, int],
    scale: tuple[float, float],
    aspect: float,
) -> Box:
    """Return the first try that fits, else the centre of the nearest aspect.

    This is torchvision's RandomResizedCrop, which has ten tries.
    """
    for draw in draws:
        height, width = slow_try(draw, size, scale, aspect)
        if 0 < height <= size[0] and 0 < width <= size[1]:
            return slow_position(draw[2:], size, (height, width))
    height, width = size
    if width / height < aspect * 3 / 4:
        height = round(width / (aspect * 3 / 4))
    elif width / height > aspect * 4 / 3:
        width = round(height * aspect * 4 / 3)
    return [(size[0] - height) // 2, (size[1] - width) // 2, height, width, 0]


def slow_single_try(
    draw: list[float], size: tuple[int, int], scale: tuple[float, float], aspect: float
) -> Box:
    """Return the box of one try, clipped to the image."""
    height, width = slow_try(draw, size, scale, aspect)
    return slow_position(
        draw[2:], size, (max(1, min(height, size[0])), max(1, min(width, size[1])))
    )


def slow_fixed(draw: list[float], size: tuple[int, int], shape: tuple[int, int]) -> Box:
    """Return 7/8 of the largest box of the wanted aspect, anywhere (224 of 256)."""
    largest = min(size[0] / shape[0], size[1] / shape[1])
    height, width = (
        min(n, max(1, round(largest * side * 7 / 8)))
        for n, side in zip(size, shape, strict=True)
    )
    return slow_position(draw, size, (height, width))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.08, 1.0), (0.9, 1.0), (1.0, 1.0)])
def test_the_same_draws_give_the_same_boxes(
    shape: tuple[int, int], scale: tuple[float, float], key: Key
) -> None:
    sizes, ids, aspect = SIZES * 20, torch.arange(20 * len(SIZES)), shape[1] / shape[0]
    drawn = uniform(key, 3, ids, 40).double().view(len(ids), 10, 4).tolist()
    each = list(zip(drawn, sizes, strict=True))
    wanted_random = [slow_random(draws, size, scale, aspect) for draws, size in each]
    wanted_once = [
        slow_single_try(draws[0], size, scale, aspect) for draws, size in each
    ]
    wanted_fixed = [slow_fixed(draws[0][:2], size, shape) for draws, size in each]
    assert (
        random_boxes(key, ids, 3, torch.tensor(sizes), scale, aspect).tolist()
        == wanted_random
    )
    assert (
        single_try_boxes(key, ids, 3, torch.tensor(sizes), scale, aspect).tolist()
        == wanted_once
    )
    assert fixed_boxes(key, ids, 3, torch.tensor(sizes), shape).tolist() == wanted_fixed


@pytest.mark.parametrize("crop", ["random", "random_once", "fixed"])
def test_crops_equal_torchvisions_within_two_levels(crop: str, key: Key) -> None:
    """Boxes, antialiased bicubic resizing and mirroring differ by half a level on average.

    Pillow resizes in one call here; if its passes clip, their order may be another.
    """
    images, ids = scenes(24, 3, 40, 50), torch.arange(24)
    augment = Augmentation(crop, flip=True)  # type: ignore[arg-type]
    boxes = augment.draw_boxes(
        key, ids, 1, torch.tensor([[40, 50]]).expand(24, -1), (32, 32)
    )
    ours = resize_crops(images, boxes, (32, 32))
    theirs = torch.stack(
        [torchvision_crop(*each) for each in zip(images, boxes.tolist(), strict=True)]
    )
    difference = (ours - theirs).abs()
    assert difference.max() <= 2
    assert difference.mean() < 0.5
    assert 0 < boxes[:, 4].sum() < 24


def torchvision_crop(image_CHW: Tensor, box: Box) -> Tensor:
    image = Image.fromarray(image_CHW.permute(1, 2, 0).numpy())
    cut = F.resized_crop(image, *box[:4], [32, 32], F.InterpolationMode.BICUBIC)
    return (
        torch.from_numpy(np.array(F.hflip(cut) if box[4] else cut))
        .permute(2, 0, 1)
        .float()
    )


def test_a_fixed_crop_is_a_crop_of_224_from_an_image_resized_to_256(key: Key) -> None:
    """It equals the recipe it stands for, here at an eighth of the size.

    Pixels differ only where the edge of the box cuts the kernel.
    """
    images, ids = scenes(12, 3, 64, 64), torch.arange(12)
    boxes = fixed_boxes(key, ids, 0, torch.tensor([[64, 64]]).expand(12, -1), (28, 28))
    boxes[:, :2] = boxes[:, :2] // 2 * 2  # whole pixels of the resized image
    ours = resize_crops(images, boxes, (28, 28))
    assert boxes[:, 2:4].unique().tolist() == [56]
    for image, cut, (top, left, *_) in zip(images, ours, boxes.tolist(), strict=True):
        small = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(
            (32, 32), Image.Resampling.BICUBIC
        )
        theirs = F.pil_to_tensor(F.crop(small, top // 2, left // 2, 28, 28)).float()
        assert (cut - theirs)[:, 2:-2, 2:-2].abs().max() <= 1
