"""Crops equal Pillow's and torchvision's, and are functions of (seed, epoch, sample id)."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import crop, hflip, pad

from unmask.data.augment.crops import (
    Augmentation,
    centre_boxes,
    random_boxes,
)
from unmask.data.augment.resampling import resize_crops, shift_images
from unmask.randomness import Key

AUGMENTS = [
    Augmentation("none", flip=True),
    Augmentation("fixed", flip=True),
    Augmentation("random", flip=True),
]


def sizes_of(height: int, width: int, count: int) -> Tensor:
    return torch.tensor([[height, width]]).expand(count, -1)


def pillow(
    image_CHW: Tensor, box: list[int], shape: tuple[int, int], at_once: bool = False
) -> Tensor:
    """Resize the width, then the height, each rounded to uint8.

    at_once: in one call, where some releases of Pillow begin with the height.
    """
    top, left, height, width, mirrored = box
    image = Image.fromarray(image_CHW.permute(1, 2, 0).byte().numpy())
    cut = image.crop((left, top, left + width, top + height))
    if not at_once:
        cut = cut.resize((shape[1], height), Image.Resampling.BICUBIC)
    cut = cut.resize(shape[::-1], Image.Resampling.BICUBIC)
    cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else cut
    return torch.from_numpy(np.array(cut)).permute(2, 0, 1).float()


BOXES = torch.tensor(
    [
        [0, 0, 40, 30, 0],
        [5, 3, 16, 21, 1],
        [39, 29, 1, 1, 0],
        [0, 10, 40, 7, 1],
        [20, 0, 20, 30, 0],
        [1, 1, 8, 8, 0],
    ]
)
SHAPES = [(32, 32), (8, 8), (48, 20), (8, 30)]


@pytest.mark.parametrize("shape", SHAPES)
def test_resampling_is_pillows_bicubic_within_one_level(shape: tuple[int, int]) -> None:
    """Enlarged, shrunk, at the edges, mirrored or not, on noise: the hardest image."""
    images = torch.randint(
        0, 256, (6, 3, 40, 30), generator=torch.Generator().manual_seed(0)
    ).to(torch.uint8)
    ours = resize_crops(images, BOXES, shape)
    theirs = torch.stack(
        [
            pillow(image, box, shape)
            for image, box in zip(images, BOXES.tolist(), strict=True)
        ]
    )
    assert ours.dtype == torch.uint8
    assert (ours - theirs).abs().max() <= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_smooth_images_are_resized_as_by_one_call_of_pillow(
    shape: tuple[int, int],
) -> None:
    """If no pass clips, the order of the passes does not matter."""
    waves = (
        torch.arange(40)[:, None] / 6
        + torch.arange(30) / 5
        + torch.arange(3)[:, None, None]
    )
    images = (128 + 100 * waves.sin()).round().to(torch.uint8).expand(6, -1, -1, -1)
    ours = resize_crops(images, BOXES, shape)
    theirs = [
        pillow(image, box, shape, at_once=True)
        for image, box in zip(images, BOXES.tolist(), strict=True)
    ]
    assert (ours - torch.stack(theirs)).abs().max() <= 1


def test_a_box_of_the_wanted_size_is_copied_exactly() -> None:
    images = torch.randint(0, 256, (1, 3, 12, 12)).to(torch.uint8)
    assert resize_crops(images, torch.tensor([[2, 3, 8, 8, 0]]), (8, 8)).equal(
        images[:, :, 2:10, 3:11]
    )
    assert resize_crops(images, torch.tensor([[2, 3, 8, 8, 1]]), (8, 8)).equal(
        images[:, :, 2:10, 3:11].flip(3)
    )


@pytest.mark.parametrize("augment", AUGMENTS, ids=lambda augment: augment.crop)
def test_boxes_do_not_depend_on_the_batch(augment: Augmentation, key: Key) -> None:
    sizes = torch.tensor([[40, 30], [28, 28], [100, 300], [7, 9]]).repeat(8, 1)
    ids = torch.arange(32)
    whole = augment.draw_boxes(key, ids, 2, sizes, (28, 28))
    parts = [
        augment.draw_boxes(key, ids[i : i + 4], 2, sizes[i : i + 4], (28, 28))
        for i in range(0, 32, 4)
    ]
    assert whole.equal(torch.cat(parts))
    assert not whole.equal(augment.draw_boxes(key, ids, 3, sizes, (28, 28)))


@pytest.mark.parametrize("augment", AUGMENTS, ids=lambda augment: augment.crop)
@pytest.mark.parametrize("size", [(40, 30), (28, 28), (10, 500), (500, 10), (1, 1)])
def test_boxes_lie_inside_the_image(
    augment: Augmentation, size: tuple[int, int], key: Key
) -> None:
    boxes = augment.draw_boxes(
        key, torch.arange(500), 0, sizes_of(*size, 500), (28, 28)
    )
    top, left, height, width, mirrored = boxes.unbind(1)
    assert boxes.min() >= 0
    assert torch.minimum(height, width).min() >= 1
    assert (top + height).max() <= size[0]
    assert (left + width).max() <= size[1]
    assert set(mirrored.tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("height", "width", "scale"), [(50, 80, (0.2, 1.0)), (64, 64, (0.08, 1.0))]
)
def test_random_boxes_are_distributed_as_torchvisions(
    height: int, width: int, scale: tuple[float, float], key: Key
) -> None:
    count = 2_000
    ours = random_boxes(
        key, torch.arange(count), 0, sizes_of(height, width, count), scale
    )[:, :4].numpy()
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array(
        [
            RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3])
            for _ in range(count)
        ]
    )
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
    assert (
        stats.ks_2samp(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]).pvalue
        > 1e-3
    )
    assert (
        stats.ks_2samp(ours[:, 2] / ours[:, 3], theirs[:, 2] / theirs[:, 3]).pvalue
        > 1e-3
    )


@pytest.mark.parametrize("size", [(10, 500), (500, 10)])
def test_an_image_too_narrow_to_crop_falls_back_as_torchvision_does(
    size: tuple[int, int], key: Key
) -> None:
    """Scale 1 fits no box of the allowed aspects: the centre is taken."""
    ours = random_boxes(key, torch.arange(3), 0, sizes_of(*size, 3), (1.0, 1.0))
    theirs = RandomResizedCrop.get_params(
        torch.empty(3, *size), [1.0, 1.0], [3 / 4, 4 / 3]
    )
    assert [tuple(box) for box in ours[:, :4].tolist()] == [tuple(theirs)] * 3


def test_half_of_the_images_are_mirrored_independently_of_their_crop(key: Key) -> None:
    boxes = (
        Augmentation("random", flip=True)
        .draw_boxes(key, torch.arange(4_000), 0, sizes_of(64, 64, 4_000), (64, 64))
        .double()
    )
    assert abs(boxes[:, 4].mean() - 0.5) < 4 * 0.5 / 4_000**0.5
    correlations = torch.corrcoef(boxes.T)[4, :4]
    assert correlations.abs().max() < 4 / 4_000**0.5


def test_no_augmentation_is_the_same_centre_in_every_epoch(key: Key) -> None:
    boxes = [
        Augmentation().draw_boxes(
            key, torch.arange(3), epoch, sizes_of(40, 30, 3), (28, 28)
        )
        for epoch in (0, 1)
    ]
    assert boxes[0].equal(boxes[1])
    # the official Resize makes 37 x 28 pixels of them, CenterCrop starts at row 4
    assert boxes[0][0].tolist() == [4 * 40 / 37, 0, 28 * 40 / 37, 30, 0]


def test_fixed_crops_have_one_size_and_every_position(key: Key) -> None:
    boxes = Augmentation("fixed").draw_boxes(
        key, torch.arange(2_000), 0, sizes_of(256, 256, 2_000), (224, 224)
    )
    assert boxes[:, 2:4].unique().tolist() == [224]
    counts = torch.bincount(boxes[:, 0], minlength=33)
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(
    ("size", "shape", "share", "box"),
    [
        ((256, 256), (224, 224), 0.875, [16, 16, 224, 224, 0]),
        ((100, 400), (50, 100), 1.0, [0, 100, 100, 200, 0]),
    ],
)
def test_evaluation_sees_the_largest_centre_of_the_wanted_aspect(
    size: tuple[int, int], shape: tuple[int, int], share: float, box: list[int]
) -> None:
    assert centre_boxes(torch.tensor([size]), shape, share)[0].tolist() == box


def test_an_image_shifted_over_black_is_torchvisions_crop_of_the_padded_one() -> None:
    """Every crop that RandomCrop(32, padding=4) can draw, mirrored or not."""
    shifts = torch.cartesian_prod(
        torch.arange(-4, 5), torch.arange(-4, 5), torch.arange(2)
    )
    images = torch.randint(
        0, 256, (len(shifts), 3, 32, 32), generator=torch.Generator().manual_seed(0)
    ).to(torch.uint8)
    theirs = [
        crop(pad(image, [4]), 4 - down, 4 - right, 32, 32)
        for image, (down, right, _) in zip(images, shifts.tolist(), strict=True)
    ]
    theirs = [
        hflip(image) if mirrored else image
        for image, mirrored in zip(theirs, shifts[:, 2].tolist(), strict=True)
    ]
    assert shift_images(images, shifts[:, :2], shifts[:, 2].bool()).equal(
        torch.stack(theirs)
    )


def test_padded_crops_are_uniform_and_do_not_depend_on_the_batch(key: Key) -> None:
    ids, augment = torch.arange(8_100), Augmentation("padded", flip=True)
    shifts = augment.draw_shifts(key, ids, 0, (32, 32))
    assert shifts is not None
    counts = torch.bincount((shifts[:, 0] + 4) * 9 + shifts[:, 1] + 4, minlength=81)
    assert len(counts) == 81
    assert stats.chisquare(counts).pvalue > 1e-3
    part = augment.draw_shifts(key, ids[100:104], 0, (32, 32))
    assert part is not None
    assert part.equal(shifts[100:104])
    boxes = augment.draw_boxes(key, ids[:9], 0, sizes_of(32, 32, 9), (32, 32))
    assert boxes[:, :4].unique(dim=0).tolist() == [[0, 0, 32, 32]]
    assert Augmentation("random").draw_shifts(key, ids, 0, (32, 32)) is None


# weights of small images are cached, those of larger ones computed anew
@pytest.mark.parametrize("size_in", [20, 80])
def test_weights_are_the_same_cached_or_not(size_in: int) -> None:
    from unmask.data.augment.resampling import _cubic_weights, resampling_matrix

    start, length = torch.tensor([0, 3, 7, 19]), torch.tensor([20, 9, 1, 1])
    for mirrored in (torch.zeros(4).long(), torch.ones(4).long()):
        weights = resampling_matrix(start, length, size_in, 12, mirrored)
        expected = _cubic_weights(start, length, size_in, 12)
        assert weights.equal(expected.flip(1) if mirrored[0] else expected)
