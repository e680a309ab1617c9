"""Colour jitter equals Pillow's, with factors that are functions of (seed, epoch, sample id)."""

import itertools
import pickle

import numpy as np
import pytest
import torch
from PIL import ImageEnhance
from scipy import stats
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from sample_pictures import scenes
from unmask.data.augment.colour_jitter import ColourJitter, make_colour_jitter
from unmask.randomness import Key, make_key

ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


@pytest.fixture
def jitter(key: Key) -> ColourJitter:
    return make_colour_jitter(0.4, key)


@pytest.fixture(scope="module")
def photos() -> Tensor:
    return scenes(48, 3, 16, 16)


def pillow(image_CHW: Tensor, factors: list[float], order: list[int]) -> Tensor:
    image = to_pil_image(image_CHW)
    for k in order:
        image = ENHANCERS[k](image).enhance(factors[k])
    return (
        torch.from_numpy(np.array(image))
        .view(*image_CHW.shape[1:], -1)
        .permute(2, 0, 1)
    )


def by_definition(
    image_CHW: Tensor, factors: list[float], order: list[int]
) -> np.ndarray:
    """Mix with black, the mean grey and the grey image; truncate to levels after each."""
    image = image_CHW.numpy().astype(np.float64)
    for k in order if len(image) == 3 else [k for k in order if k < 2]:
        grey = (
            np.floor(np.tensordot([0.2989, 0.587, 0.114], image, 1))
            if len(image) == 3
            else image[0]
        )
        image = np.floor(
            (factors[k] * image + (1 - factors[k]) * (0.0, grey.mean(), grey)[k]).clip(
                0, 255
            )
        )
    return image


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_changed_as_by_pillow_in_the_drawn_order(
    channels: int, jitter: ColourJitter
) -> None:
    """They may differ by one level for each of three operations.

    Pillow rounds grey levels and their mean, torchvision truncates them.
    """
    images, ids = scenes(48, channels, 16, 16), torch.arange(48)
    ours = jitter(images, 3, ids).int()
    factors, order = (drawn.tolist() for drawn in jitter.draw(3, ids))
    theirs = torch.stack(
        [pillow(*each) for each in zip(images, factors, order, strict=True)]
    ).int()
    assert (ours - theirs).abs().max() <= 3
    assert (ours - theirs).abs().double().mean() < 0.6
    backwards = [
        pillow(i, f, o[::-1]) for i, f, o in zip(images, factors, order, strict=True)
    ]
    assert (ours - torch.stack(backwards).int()).abs().max() > 3


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_changed_as_the_definition_says(
    channels: int, jitter: ColourJitter
) -> None:
    """They are nearly always equal.

    Rounding of float32 may cost one level, or two after several operations.
    """
    images, ids = scenes(48, channels, 16, 16), torch.arange(48)
    factors, order = (drawn.tolist() for drawn in jitter.draw(0, ids))
    wanted = np.stack(
        [by_definition(*each) for each in zip(images, factors, order, strict=True)]
    )
    difference = np.abs(jitter(images, 0, ids).numpy() - wanted)
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize("k", range(3))
def test_each_operation_alone_equals_pillows_within_one_level(
    k: int, photos: Tensor, jitter: ColourJitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A factor of one changes nothing, so the other two are switched off."""
    ids = torch.arange(48)
    factors, order = jitter.draw(0, ids)
    alone = torch.where(torch.arange(3) == k, factors, 1.0)
    monkeypatch.setattr(ColourJitter, "draw", lambda *_: (alone, order))
    theirs = [
        pillow(*each)
        for each in zip(photos, alone.tolist(), order.tolist(), strict=True)
    ]
    ours = jitter(photos, 0, ids).int()
    assert (ours - torch.stack(theirs).int()).abs().max() <= 1
    assert (ours != photos).flatten(1).any(1).all()


def test_the_change_depends_only_on_seed_epoch_and_id(
    jitter: ColourJitter, photos: Tensor
) -> None:
    ids = torch.arange(100, 148)
    whole = jitter(photos, 3, ids)
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    parts = [jitter(photos[part], 3, ids[part]) for part in order.split(7)]
    assert torch.get_rng_state().equal(before)
    assert torch.cat(parts).equal(whole[order])
    others = [
        jitter(photos, 4, ids),
        jitter(photos, 3, ids + 48),
        make_colour_jitter(0.4, make_key(1, "test"))(photos, 3, ids),
    ]
    assert all((other != whole).flatten(1).any(1).all() for other in others)


def test_the_jitter_does_not_change_its_input_and_can_be_pickled(
    jitter: ColourJitter, photos: Tensor
) -> None:
    before = photos.clone()
    changed = jitter(photos, 0, torch.arange(48))
    assert photos.equal(before)
    assert changed.dtype == torch.uint8
    assert pickle.loads(pickle.dumps(jitter))(photos, 0, torch.arange(48)).equal(
        changed
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_strength_zero_changes_nothing(channels: int, key: Key) -> None:
    noise = torch.randint(
        0, 256, (64, channels, 9, 9), generator=torch.Generator().manual_seed(0)
    ).byte()
    assert make_colour_jitter(0.0, key)(noise, 0, torch.arange(64)).equal(noise)


@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_factors_are_uniform_around_one_and_orders_equally_likely(
    strength: float, key: Key
) -> None:
    count = 6_000
    factors, order = make_colour_jitter(strength, key).draw(2, torch.arange(count))
    for factor in factors.T:
        assert (
            stats.kstest(factor, stats.uniform(1 - strength, 2 * strength).cdf).pvalue
            > 1e-3
        )
    counts = [
        (order == torch.tensor(each)).all(1).sum().item()
        for each in itertools.permutations(range(3))
    ]
    assert sum(counts) == count
    assert stats.chisquare(counts).pvalue > 1e-3
    together = np.corrcoef(torch.cat([factors, order.argsort(1)[:, :2]], dim=1).T)
    together[3, 4] = together[4, 3] = 0  # places exclude one another
    assert np.abs(together - np.eye(5)).max() < 4.5 / count**0.5


def test_saturation_changes_colours_but_not_grey(jitter: ColourJitter) -> None:
    """Grey as three equal channels is changed like the one channel, up to rounding."""
    grey, ids = scenes(24, 1, 16, 16), torch.arange(24)
    thrice = jitter(grey.expand(-1, 3, -1, -1), 0, ids).int()
    assert (thrice - jitter(grey, 0, ids).int()).abs().max() <= 3
    assert (thrice - thrice[:, :1]).abs().max() == 0
    noise = torch.randint(
        0, 256, (24, 3, 8, 8), generator=torch.Generator().manual_seed(0)
    ).byte()
    spread_before, spread_after = (
        images.double().std(1).mean((1, 2)) for images in (noise, jitter(noise, 0, ids))
    )
    assert ((spread_after / spread_before - 1).abs() > 0.01).double().mean() > 0.9


@pytest.mark.parametrize("channels", [2, 4])
def test_other_numbers_of_channels_are_refused(
    channels: int, jitter: ColourJitter
) -> None:
    expected = (
        rf"images of {channels} channels, only of 1 \(grey\) or 3 \(RGB\); set"
        r" augment.jitter=0"
    )
    with pytest.raises(ValueError, match=expected):
        jitter(torch.zeros(2, channels, 4, 4, dtype=torch.uint8), 0, torch.arange(2))


@pytest.mark.parametrize("strength", [-0.1, 1.5])
def test_strengths_that_could_make_factors_negative_are_refused(
    strength: float, key: Key
) -> None:
    with pytest.raises(
        ValueError,
        match=rf"a jitter of {strength} is not between 0 and 1; 0.4 is BEiT's",
    ):
        make_colour_jitter(strength, key)
