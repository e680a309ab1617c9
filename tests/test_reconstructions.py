"""Pictures show visible pixels as they are and predictions elsewhere; nothing leaks."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from unmask.mae import MAE
from unmask.masking import Masking
from unmask.patches import gather_tokens, patchify
from unmask.reconstructions import (
    GAP,
    Reconstruction,
    contact_sheet,
    reconstruct,
    to_tiles,
)
from unmask.targets import NormalisedPixel, Pixel

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
TARGETS = [Pixel(), NormalisedPixel()]


@pytest.fixture
def photos(images: Tensor) -> Tensor:
    """Normalised images whose pixels lie inside [0, 1]: nothing is clipped."""
    return images.clamp(-1, 1)


def pixels(normalised: Tensor) -> Tensor:
    return normalised * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(
        3, 1, 1
    )


@pytest.mark.parametrize("target", TARGETS)
def test_visible_patches_are_pasted_and_hidden_ones_predicted(
    target: Pixel | NormalisedPixel,
    make_mae: Callable[..., MAE],
    photos: Tensor,
    masking: Masking,
) -> None:
    model = make_mae()
    result = reconstruct(model, target, photos, masking, MEAN, STD)
    original, pasted = patchify(pixels(photos), 2), patchify(result.pasted_BCHW, 2)
    torch.testing.assert_close(
        gather_tokens(pasted, masking.visible_BV),
        gather_tokens(original, masking.visible_BV),
    )
    pred = target.to_pixels(
        model(photos, masking), gather_tokens(patchify(photos, 2), masking.visible_BV)
    )
    # a patch is (row, column, channel)
    spread, shift = torch.tensor(STD).repeat(4), torch.tensor(MEAN).repeat(4)
    expected = (pred * spread + shift).clamp(0, 1)
    torch.testing.assert_close(
        gather_tokens(pasted, masking.hidden_BM), expected, rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(result.original_BCHW, pixels(photos))


@pytest.mark.parametrize("target", TARGETS)
def test_hidden_pixels_cannot_leak_into_the_reconstruction(
    target: Pixel | NormalisedPixel,
    make_mae: Callable[..., MAE],
    photos: Tensor,
    masking: Masking,
) -> None:
    model = make_mae()
    before = reconstruct(model, target, photos, masking, MEAN, STD)
    hidden = before.masked_BCHW == 0.5
    other = reconstruct(
        model, target, torch.where(hidden, -photos, photos), masking, MEAN, STD
    )
    assert other.pasted_BCHW.equal(before.pasted_BCHW)
    assert not other.original_BCHW.equal(before.original_BCHW)


def test_hidden_patches_are_grey(
    make_mae: Callable[..., MAE], photos: Tensor, masking: Masking
) -> None:
    masked = patchify(
        reconstruct(make_mae(), Pixel(), photos, masking, MEAN, STD).masked_BCHW, 2
    )
    assert (gather_tokens(masked, masking.hidden_BM) == 0.5).all()
    original = gather_tokens(patchify(pixels(photos), 2), masking.visible_BV)
    torch.testing.assert_close(gather_tokens(masked, masking.visible_BV), original)


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (4, 4, 1), (5, 4, 2)]
)
def test_a_sheet_has_a_triple_for_every_image(
    count: int, columns: int, rows: int
) -> None:
    side = 8
    images = torch.rand(count, 3, side, side)
    result = Reconstruction(images, images * 0, 1 - images)
    sheet = np.asarray(contact_sheet(result, zoom=1))
    assert sheet.shape == (
        rows * (side + 2 * GAP) + GAP,
        columns * (3 * (side + GAP) + 4 * GAP),
        3,
    )
    top, left = GAP, 2 * GAP
    tiles = [
        sheet[top : top + side, left + j * (side + GAP) :][:, :side] for j in range(3)
    ]
    for tile, part in zip(tiles, result, strict=True):
        assert (tile == to_tiles(part[:1])[0]).all()


def test_tiles_are_rgb_for_any_number_of_channels() -> None:
    grey, many = torch.rand(2, 1, 4, 4), torch.rand(2, 5, 4, 4)
    assert (
        to_tiles(grey) == (grey * 255).round().byte().permute(0, 2, 3, 1).numpy()
    ).all()
    assert (
        to_tiles(many) == (many[:, :3] * 255).round().byte().permute(0, 2, 3, 1).numpy()
    ).all()
