"""Targets are the official port's: unbiased variance of a patch, eps 1e-6."""

import numpy as np
import pytest
import torch

from unmask.targets import NormalisedPixel, Pixel

TARGETS = [Pixel(), NormalisedPixel()]


def test_normalised_pixels_are_standardised_with_the_unbiased_variance() -> None:
    patches = torch.randn(2, 3, 12) * 3 + 1
    values = patches.double().numpy()
    spread = np.sqrt(values.var(-1, ddof=1, keepdims=True) + 1e-6)
    expected = (values - values.mean(-1, keepdims=True)) / spread
    torch.testing.assert_close(
        NormalisedPixel()(patches).double(),
        torch.from_numpy(expected),
        rtol=1e-5,
        atol=1e-6,
    )


def test_the_variance_is_guarded_by_one_millionth() -> None:
    """Variance 1e-6 gives 1/sqrt(2) of unit scale, variance 0 gives zeros."""
    patch = torch.tensor([-1.0, 1.0]).repeat(6) * (1e-6 * 11 / 12) ** 0.5
    torch.testing.assert_close(
        NormalisedPixel()(patch[None, None]).var(), torch.tensor(0.5), rtol=1e-4, atol=0
    )
    assert (NormalisedPixel()(torch.full((1, 1, 12), 0.3)).abs() < 1e-4).all()


@pytest.mark.parametrize("target", TARGETS)
def test_autocast_does_not_touch_targets(target: Pixel | NormalisedPixel) -> None:
    patches = torch.randn(2, 3, 12) + 100
    expected = target(patches)
    with torch.autocast("cpu", torch.bfloat16):
        assert target(patches).equal(expected)
    assert target(patches.bfloat16()).dtype == torch.float32


def test_pixels_are_their_own_target_and_prediction() -> None:
    patches, visible = torch.randn(2, 3, 12), torch.randn(2, 1, 12)
    assert Pixel()(patches).equal(patches)
    assert Pixel().to_pixels(patches, visible).equal(patches)


def test_normalised_predictions_are_undone_with_each_images_visible_statistics() -> (
    None
):
    """Exact where hidden patches have the statistics of the visible ones."""
    pattern = torch.randn(2, 1, 12)
    hidden = pattern[:, :, torch.randperm(12)]
    restored = NormalisedPixel().to_pixels(NormalisedPixel()(hidden), pattern)
    torch.testing.assert_close(restored, hidden, rtol=0, atol=1e-5)
    brighter = NormalisedPixel().to_pixels(
        NormalisedPixel()(hidden), pattern + torch.tensor([[[5.0]], [[0.0]]])
    )
    torch.testing.assert_close(
        brighter - restored, torch.tensor([[[5.0]], [[0.0]]]).expand(2, 1, 12)
    )
